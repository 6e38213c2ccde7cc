"""The rules themselves: settings, moving rates, and one exchange against the published equations."""

import numpy as np
import pytest
from tests.support import elastic_reference

from modum.box import Box
from modum.parameters import ArrayVector
from modum.rules import Elastic, Hybrid, UpdateRule

RULES = [Elastic(moving_rate=0.3), Hybrid(between=Elastic(moving_rate=0.3))]


@pytest.mark.parametrize("rule", RULES, ids=["elastic", "hybrid"])
def test_a_transfer_moves_the_shared_weights_and_leaves_the_correction(rule: UpdateRule, box: Box) -> None:
    rng = np.random.default_rng(1)
    W, G = rng.standard_normal((2, 1000)).astype(np.float32)
    buffer = box.create("model", 800)
    buffer.write(G[100:900])
    vector = ArrayVector(W[100:900].copy())
    vector.snapshot()
    assert rule.part(vector, buffer).transfer(groups=1, steps=1) == 0.3
    expected_W, expected_G = W.copy(), G.copy()
    elastic_reference(expected_W[100:900], expected_G[100:900], 0.3)
    np.testing.assert_allclose(buffer.read(), expected_G[100:900], rtol=0, atol=1e-6)
    np.testing.assert_allclose(W[100:900] - vector.staging, expected_W[100:900], rtol=0, atol=1e-6)
    buffer.close()


@pytest.mark.parametrize(("groups", "rate"), [(1, 0.5), (6, 0.5), (8, 0.4), (32, 0.1)])
def test_the_automatic_moving_rate_falls_with_the_groups_and_never_passes_the_middle(groups: int, rate: float) -> None:
    assert Elastic().rate(groups) == pytest.approx(rate)


def test_a_fixed_moving_rate_stays() -> None:
    assert Elastic(moving_rate=0.7).rate(100) == 0.7


@pytest.mark.parametrize(
    ("rule", "pulls"),
    [
        (Elastic(), 0.8),
        (Elastic(moving_rate=0.2), 0.2),
        (Elastic(pull=0.9), 0.9),
        (Elastic(moving_rate=0.2, pull=0.9), 0.9),
    ],
)
def test_a_worker_takes_what_is_shared_then_unless_rates_are_given(rule: Elastic, pulls: float, box: Box) -> None:
    """Statistics move as the shared ones do."""
    rng = np.random.default_rng(1)
    W, G = rng.standard_normal((2, 1000)).astype(np.float32)
    buffer = box.create("model", 1000)
    buffer.write(G)
    vector = ArrayVector(W.copy(), 10)
    vector.snapshot()
    rate = rule.part(vector, buffer).transfer(groups=16, steps=1)
    vector.subtract(rate)
    shared = buffer.read()
    buffer.close()

    assert rate == pytest.approx(0.2)
    np.testing.assert_allclose(shared, G + rate * (W - G), rtol=0, atol=1e-6)
    np.testing.assert_allclose(vector.weights[:990], (W + pulls * (G - W))[:990], rtol=0, atol=1e-6)
    np.testing.assert_allclose(vector.weights[990:], (W + rate * (G - W))[990:], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["moving_rate", "pull"])
@pytest.mark.parametrize("rate", [0.0, -0.1, 1.01])
def test_a_rate_out_of_range_is_refused_with_its_value(name: str, rate: float) -> None:
    with pytest.raises(ValueError, match=rf"{name} \({rate}\)"):
        Elastic(**{name: rate})  # type: ignore[arg-type]


def test_an_interval_below_one_is_refused_with_its_value() -> None:
    with pytest.raises(ValueError, match=r"interval \(0\)"):
        Elastic(interval=0)


def test_a_hybrid_between_hybrids_is_refused() -> None:
    with pytest.raises(ValueError, match="not another Hybrid"):
        Hybrid(between=Hybrid())


def test_a_hybrid_takes_interval_overlap_and_settings_from_the_rule_between_groups() -> None:
    between = Elastic(moving_rate=0.25, interval=7, overlap=False)
    rule = Hybrid(between=between)
    assert (rule.interval, rule.overlap) == (7, False)
    assert rule.settings() == between.settings() == {
        "rule": "elastic",
        "moving_rate": 0.25,
        "pull": "auto",
        "interval": 7,
        "overlap": False,
        "compression": "none",
    }  # fmt: skip
