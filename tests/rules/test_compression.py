"""Rules whose exchanges are compressed: what is, what is not, and what it costs."""

from typing import Any

import numpy as np
import pytest
from tests.support import Floats, elastic_reference

from modum.box import Box
from modum.box.compression import COMPRESSIONS, CompressionName
from modum.parameters import ArrayVector
from modum.rules import Drift, Elastic, Hybrid, Leg, UpdateRule, rule_from_text

SIZE, STATISTICS = 1000, 200

every = pytest.mark.parametrize("name", COMPRESSIONS)


def start(size: int = SIZE) -> tuple[Floats, Floats]:
    W, G = np.random.default_rng(1).standard_normal((2, size)).astype(np.float32)
    return W, G


@every
@pytest.mark.parametrize("kind", [Elastic, Drift])
def test_an_exchange_is_near_that_of_the_equations(kind: Any, name: CompressionName, box: Box) -> None:
    for rule in (kind(moving_rate=0.3, compression=name), Hybrid(between=kind(moving_rate=0.3, compression=name))):
        W, G = start()
        buffer = box.open_or_create("model", SIZE)
        buffer.write(G)
        vector = ArrayVector(W.copy())
        vector.snapshot()
        rule.part(vector, buffer).transfer(1, 1)
        elastic_reference(W, G, 0.3)
        np.testing.assert_allclose(vector.weights - vector.staging, W, rtol=0, atol=0.02)
        np.testing.assert_allclose(buffer.read(), G, rtol=0, atol=0.02)
        buffer.close()


@every
def test_what_others_do_is_followed_as_without(name: CompressionName, box: Box) -> None:
    """Drift with and without: the worker and the shared weights end in nearly the same place."""
    ends: list[tuple[Floats, Floats]] = []
    for compression in ("none", name):
        buffer = box.create(f"model {compression}", SIZE)
        vector = ArrayVector(np.zeros(SIZE, np.float32))
        rule = Drift(compression=compression, horizon=4)
        part = rule.part(vector, buffer)
        part.pulled()
        for turn in range(40):
            step = np.random.default_rng(turn).standard_normal(SIZE).astype(np.float32)
            vector.weights += 0.1 * step
            buffer.add(0.1 * step[::-1].copy())
            vector.snapshot()
            vector.subtract(part.transfer(2, 1))
        ends.append((vector.weights.copy(), buffer.read()))
    for without, compressed in zip(*ends, strict=True):
        assert np.abs(without).max() > 1
        np.testing.assert_allclose(compressed, without, rtol=0, atol=0.03)


@every
@pytest.mark.parametrize("kind", [Elastic, Drift])
def test_statistics_travel_as_they_are(kind: Any, name: CompressionName, box: Box) -> None:
    """A count of batches has the neighbours that it would have in a tile: none of them loses a bit."""
    W, G = start()
    W[-STATISTICS:], G[-STATISTICS:] = 1e6, 0
    W[-STATISTICS + 1 :: 2] = 1e-3
    buffer = box.create("model", SIZE)
    buffer.write(G)
    vector = ArrayVector(W.copy(), STATISTICS)
    part = kind(moving_rate=0.3, compression=name, **({"horizon": 1} if kind is Drift else {})).part(vector, buffer)
    part.pulled()
    vector.snapshot()
    part.transfer(1, 1)
    elastic_reference(W, G, 0.3)
    np.testing.assert_array_equal(buffer.read()[-STATISTICS:], G[-STATISTICS:])


@pytest.mark.parametrize(
    ("rule", "leg"),
    [
        (Elastic(), Leg(4_000_000, 4_000_000)),
        (Elastic(compression="bfloat16"), Leg(2_000_000, 2_000_000)),
        (Elastic(compression="int8"), Leg(1_500_000 + 4 * 3907, 1_000_000 + 4 * 3907)),
        (Drift(compression="int8"), Leg(1_500_000 + 4 * 3907, 1_000_000 + 4 * 3907)),
        (Hybrid(between=Elastic(compression="bfloat16")), Leg(2_000_000, 2_000_000)),
    ],
)
def test_traffic_is_what_crosses_the_network(rule: UpdateRule, leg: Leg) -> None:
    assert rule.traffic(4_000_000) == (leg,)


def test_a_setting_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="must be one of none, bfloat16, int8, not 'zip'"):
        Elastic(compression="zip")  # type: ignore[arg-type]


def test_a_command_line_has_the_setting() -> None:
    assert rule_from_text("elastic:compression=int8") == Elastic(compression="int8")
    assert rule_from_text("drift:compression=bfloat16,horizon=8") == Drift(compression="bfloat16", horizon=8)
    with pytest.raises(ValueError, match="zip"):
        rule_from_text("elastic:compression=zip")


class Halves(ArrayVector):
    dtype = "bfloat16"


@every
@pytest.mark.parametrize("kind", [Elastic, Drift])
def test_weights_of_another_dtype_are_refused_with_what_to_do(kind: Any, name: CompressionName, box: Box) -> None:
    buffer = box.create("model", 10, "bfloat16")
    with pytest.raises(ValueError, match=rf"'{name}'.* are bfloat16: set it to \"none\""):
        kind(compression=name).part(Halves(np.zeros(10, np.float32)), buffer)
