from typing import Any

import numpy as np
import pytest

from modum.plan import Cluster
from modum.simulate import Scenario, simulate
from modum.simulate.training import LEARNING_RATE, Task, Trainer


def test_the_gradient_is_that_of_the_loss() -> None:
    task = Task(0)
    batch = np.arange(64)
    weights = task.start.astype(np.float64)
    task.points = task.points.astype(np.float64)

    def loss(at: Any) -> float:
        first, bias, second, last = task._parts(at)
        scores = np.maximum(task.points[batch] @ first + bias, 0) @ second + last
        scores -= scores.max(axis=1, keepdims=True)
        return float(np.mean(np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(64), task.labels[batch]]))

    gradient = task.gradient(weights, batch)  # type: ignore[arg-type]
    for index in (0, 100, 1023, 1030, 1200, len(weights) - 1):
        step = np.zeros_like(weights)
        step[index] = 1e-6
        assert gradient[index] == pytest.approx((loss(weights + step) - loss(weights - step)) / 2e-6, abs=1e-6)


def trainer(rule: Any, groups: int = 2) -> Trainer:
    made = Trainer(Scenario(cluster=Cluster(workers=groups), rule=rule))
    for place in range(groups):
        made.join(place)
    return made


def test_elastic_moves_both_sides_toward_each_other() -> None:
    made = trainer("elastic")
    start = made.shared.copy()
    made.step(0, 3)
    local = made._weights[0].copy()
    made.snapshot(0)
    made.combine(0, 2)
    made.step(0, 1)  # goes on before the correction is back
    ahead = made._weights[0].copy()
    made.apply(0)
    d = 0.45 * (local - start)
    np.testing.assert_allclose(made.shared, start + d, atol=1e-6)
    np.testing.assert_allclose(made._weights[0], ahead - d, atol=1e-6)


def test_downpour_adds_each_update_once_and_takes_the_sum() -> None:
    made = trainer("downpour")
    start = made.shared.copy()
    for place in range(2):
        made.step(place, 2)
    learned = [made._weights[place] - start for place in range(2)]
    for place in range(2):
        made.snapshot(place)
    made.step(0, 1)
    later = made._weights[0] - start - learned[0]
    for place in range(2):
        made.combine(place, 2)
    for place in range(2):
        made.fetch(place)
        made.apply(place)
    both = start + learned[0] + learned[1]
    np.testing.assert_allclose(made.shared, both, atol=1e-5)
    np.testing.assert_allclose(made._weights[0], both + later, atol=1e-5)
    made.snapshot(0)
    made.combine(0, 2)
    np.testing.assert_allclose(made.shared, both + later, atol=1e-5)


def test_one_synchronous_step_is_sgd_with_a_large_batch() -> None:
    made = trainer("allreduce")
    before = made.shared.copy()
    made.step_together(4)
    assert 0 < np.abs(made.shared - before).max() < LEARNING_RATE


def test_rules_are_compared_by_accuracy_over_virtual_seconds() -> None:
    """On a slow network elastic averaging is there long before an all-reduce at every step."""
    cluster = Cluster(workers=8, link=100e6)
    curves = {}
    for rule in ("elastic", "allreduce"):
        scenario = Scenario(cluster=cluster, spread=0.1, steps=200, rule=rule)
        curves[rule] = simulate(scenario, train=True).curve
        assert curves[rule] is not None
    elastic, synchronous = (curve.until(0.75) for curve in curves.values() if curve is not None)
    assert elastic is not None
    assert synchronous is not None
    assert elastic < synchronous / 2
