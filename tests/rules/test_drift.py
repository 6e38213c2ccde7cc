"""Elastic averaging with drift, against its equations in double precision."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.support import Floats

from modum.box import Box, Buffer
from modum.parameters import ArrayVector
from modum.rules import Drift
from modum.rules.drift import PIECE, drift

SIZE = 1000


class Reference:
    """One worker and the shared weights."""

    def __init__(self, W: NDArray[np.float64], G: NDArray[np.float64]) -> None:
        self.W, self.G, self.B = W.copy(), G.copy(), G.copy()

    def exchange(self, rate: float, pull: float, k: float) -> None:
        """Exchange, and follow the shared weights if `k` is not 0."""
        before = self.G
        d = self.W - before
        self.W, self.G = self.W - pull * d, before + rate * d
        if k:
            self.W, self.B = self.W + k * (before - self.B), before


def run(rule: Drift, box: Box, groups: int, steps: Sequence[int], size: int = SIZE) -> tuple[Floats, Floats, Reference]:
    """Exchange after so many steps each, while others move the shared weights; the reference does the same."""
    rng = np.random.default_rng(1)
    shared = rng.standard_normal(size).astype(np.float32)
    buffer = box.create("model", size)
    buffer.write(shared)
    vector = ArrayVector(shared.copy())
    part = rule.part(vector, buffer)
    part.pulled()
    expected = Reference(shared.astype(np.float64), shared.astype(np.float64))
    gone = 0
    for count in steps:
        for weights in (vector.weights, expected.W):
            weights += np.linspace(-1, 1, size)
        others = rng.standard_normal(size).astype(np.float32)
        buffer.add(others)
        expected.G = expected.G + others
        vector.snapshot()
        rate = part.transfer(groups, count)
        vector.subtract(rate)
        gone += count
        follows = gone >= rule.follows_after(count)
        gone = 0 if follows else gone
        pull = rule.pulls(rate, count)
        expected.exchange(rate, pull, drift(groups, rate, pull) if follows else 0.0)
    result = buffer.read()
    buffer.close()
    return vector.weights, result, expected


@pytest.mark.parametrize(("size", "groups"), [(SIZE, 4), (PIECE + 5, 4), (SIZE, 16)])
def test_workers_follow_the_shared_weights_after_the_horizon(box: Box, size: int, groups: int) -> None:
    W, G, expected = run(Drift(horizon=8), box, groups, [4, 4, 4, 3, 9], size)

    np.testing.assert_allclose(G, expected.G, atol=1e-4)
    np.testing.assert_allclose(W, expected.W, atol=1e-4)


def test_who_is_alone_follows_nobody(box: Box) -> None:
    W, _, expected = run(Drift(horizon=1), box, 1, [4, 4])

    np.testing.assert_allclose(W, expected.W, atol=1e-5)
    assert drift(1, 0.5, 0.5) == 0


@pytest.mark.parametrize(
    ("groups", "rate", "k"), [(2, 0.5, 0.793), (4, 0.5, 0.75), (16, 0.2, 1.0), (8, 0.4, 0.834), (100, 0.032, 1.0)]
)
def test_rates_and_drift_depend_on_the_number_of_groups(groups: int, rate: float, k: float) -> None:
    assert Drift().rate(groups) == pytest.approx(rate)
    assert drift(groups, rate, Drift().pulls(rate, 1)) == pytest.approx(k, abs=1e-3)


def test_the_horizon_depends_on_how_far_exchanges_are_apart() -> None:
    assert [Drift().follows_after(steps) for steps in (1, 3, 4, 100)] == [32, 32, 16, 16]
    assert Drift(horizon=7).follows_after(1) == 7


def test_a_worker_goes_less_far_where_exchanges_are_seldom() -> None:
    assert [Drift().pulls(0.2, steps) for steps in (1, 3, 4, 100)] == [0.8, 0.8, 0.5, 0.5]
    assert [Drift(moving_rate=0.2).pulls(0.2, 100), Drift(pull=0.9).pulls(0.2, 100)] == [0.2, 0.9]


def test_the_horizon_follows_from_the_momentum() -> None:
    """Steps in which an optimizer answers: 1.6 / (1 - momentum)."""
    momenta = (0.0, 0.5, 0.8, 0.9, 0.95)
    assert [Drift(momentum=momentum).follows_after(100) for momentum in momenta] == [4, 4, 8, 16, 32]
    assert [Drift(momentum=momentum).follows_after(1) for momentum in momenta] == [4, 4, 16, 32, 64]
    with pytest.raises(ValueError, match=r"momentum \(1\)"):
        Drift(momentum=1)


def test_statistics_are_mixed_and_do_not_drift(box: Box) -> None:
    buffer = box.create("model", 20)
    vector = ArrayVector(np.zeros(20, np.float32), statistics=5)
    part = Drift(horizon=1).part(vector, buffer)
    part.pulled()
    buffer.write(np.ones(20, np.float32))
    vector.snapshot()
    vector.subtract(part.transfer(4, 1))

    assert vector.weights[:15] == pytest.approx(0.5 + 0.75)  # half of the way, and the drift of 1
    assert vector.weights[15:] == pytest.approx(0.5)
    buffer.close()


def test_bfloat16_follows_without_losing_small_movements(box: Box) -> None:
    """What was there is answered: computed back from a difference in bfloat16 it would be lost."""
    import ml_dtypes

    def bits(numbers: object) -> NDArray[np.uint16]:
        return np.asarray(numbers, ml_dtypes.bfloat16).view(np.uint16)

    class Half(ArrayVector):
        @property
        def dtype(self) -> str:
            return "bfloat16"

    buffer: Buffer = box.create("model", 3, "bfloat16")
    buffer.write(bits([100.0, 100.0, 100.0]))
    vector = Half(bits([100.0, 100.0, 100.0]))  # type: ignore[arg-type]
    part = Drift(horizon=1).part(vector, buffer)
    part.pulled()
    buffer.write(bits([100.5, 101.0, 100.0]))
    vector.snapshot()
    part.transfer(4, 1)

    correction = np.asarray(vector.staging).view(ml_dtypes.bfloat16).astype(np.float32)
    assert correction.tolist() == [-0.25 - 0.375, -0.5 - 0.75, 0.0]
    buffer.close()


@pytest.mark.parametrize("horizon", [0, -1])
def test_a_horizon_out_of_range_is_refused_with_its_value(horizon: int) -> None:
    with pytest.raises(ValueError, match=rf"horizon \({horizon}\)"):
        Drift(horizon=horizon)
