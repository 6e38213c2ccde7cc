import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import simpy

from modum.box import Box, Buffer
from modum.parameters import Vector
from modum.plan import Cluster
from modum.rules import RULES, Elastic, Part
from modum.simulate import Report, Scenario, simulate
from modum.simulate.links import SharedLink
from modum.simulate.training import LEARNING_RATE, Classifier, Moment, Task
from modum.simulate.virtual import VirtualBuffer


def test_the_gradient_is_that_of_the_loss() -> None:
    task = Task(0)
    batch = np.arange(64)
    weights = task.start.astype(np.float64)
    task.points = task.points.astype(np.float64)

    def loss(at: Any) -> float:
        first, bias, second, last = task.parts(at)
        scores = np.maximum(task.points[batch] @ first + bias, 0) @ second + last
        scores -= scores.max(axis=1, keepdims=True)
        return float(np.mean(np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(64), task.labels[batch]]))

    gradient = task.gradient(weights, batch)  # type: ignore[arg-type]
    for index in (0, 100, 1023, 1030, 1200, len(weights) - 1):
        step = np.zeros_like(weights)
        step[index] = 1e-6
        assert gradient[index] == pytest.approx((loss(weights + step) - loss(weights - step)) / 2e-6, abs=1e-6)


def test_a_step_is_sgd_with_the_mean_gradient_of_all_members() -> None:
    trainer = Classifier(0)
    before = trainer.shared.copy()
    trainer.learner(trainer.shared, 4).step(Moment(0.0, 0, 1))
    assert 0 < np.abs(trainer.shared - before).max() < LEARNING_RATE


def trained(rule: str, **options: Any) -> Report:
    scenario = Scenario(cluster=Cluster(workers=4, link=1e9), spread=0.1, steps=40, rule=rule, **options)
    report = simulate(scenario, train=True)
    assert report.finished
    assert report.steps == 160
    return report


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("overlap", [True, False])
def test_a_trained_job_takes_the_time_of_one_that_only_counts(rule: str, overlap: bool) -> None:
    """The real running of a rule and the model of it tell the same story: two accounts of one schedule."""
    scenario = Scenario(cluster=Cluster(workers=4, link=1e9), spread=0.1, steps=200, rule=rule, overlap=overlap)
    counted, real = simulate(scenario), simulate(scenario, train=True)
    # where groups wait, a difference in one interval moves all that comes after it
    near = 0.01 if overlap else 0.07
    assert real.seconds == pytest.approx(counted.seconds, rel=near)
    assert real.exchanges == pytest.approx(counted.exchanges, rel=near)
    assert real.exchange_seconds.median == pytest.approx(counted.exchange_seconds.median, rel=near)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("group_size", [1, 2])
def test_a_trained_job_and_one_that_only_counts_are_the_same_where_no_exchange_is_late(
    rule: str, overlap: bool, group_size: int
) -> None:
    cluster = Cluster(workers=4, group_size=group_size, link=7e9)
    scenario = Scenario(cluster=cluster, spread=0.1, steps=50, rule=rule, overlap=overlap, interval=1)
    counted, real = simulate(scenario), simulate(scenario, train=True)
    assert real.seconds == pytest.approx(counted.seconds, rel=1e-9)
    assert real.record.intervals == counted.record.intervals
    assert real.record.staleness == counted.record.staleness
    assert real.record.step_counts == counted.record.step_counts
    # 50 steps of each member, and the last exchange
    assert real.exchanges == cluster.groups * 51


def test_settings_of_a_rule_count() -> None:
    """Groups that are hardly pulled together leave the shared weights near the start."""
    assert final(trained("elastic:moving_rate=0.001")) < final(trained("elastic:moving_rate=0.3")) - 0.2


def test_a_rule_of_ones_own_is_run_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Deaf(Elastic):
        def part(self, vector: Vector, buffer: Buffer) -> Part:
            return Unheard(vector, buffer)

    class Unheard(Part):
        def transfer(self, groups: int, steps: int) -> float:
            calls.append(groups)
            self.vector.staging[:] = 0
            return 1.0

    calls: list[int] = []
    monkeypatch.setitem(RULES, "deaf", Deaf)
    report = trained("deaf")
    assert calls
    assert report.curve is not None
    assert len(set(report.curve.accuracy)) == 1, "nobody has moved the shared weights"


def final(report: Report) -> float:
    assert report.curve is not None
    return report.curve.accuracy[-1]


def test_groups_that_die_are_replaced_and_their_steps_done_again() -> None:
    for rule in RULES:
        report = trained(rule, failure_seconds=10.0, replace_seconds=1.0)
        assert report.failures


def test_a_virtual_buffer_does_what_a_buffer_does(box: Box) -> None:
    shared = np.linspace(-1, 1, 100, dtype=np.float32)
    link = SharedLink(simpy.Environment(), lambda flows: 1.0)
    virtual = VirtualBuffer(shared, 400, link, link, 0.0, lambda: 0, lambda: None)
    virtual.instant = True
    real = box.create("weights", 100)
    real.write(shared)
    x = np.cos(np.arange(60, dtype=np.float32))
    results: list[list[Any]] = []
    for buffer in (virtual, real):
        buffer.add(x, 0.3, offset=20)
        moved = x.copy()
        buffer.exchange(moved, 0.25, offset=10)
        correction = x.copy()
        buffer.exchange(correction, 0.7, offset=40, leave="difference")
        results.append([moved, correction, buffer.read(np.empty(100, np.float32)), buffer.read(moved.copy(), offset=5)])
    real.close()
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_plans_and_simulations_load_neither_servers_nor_clients() -> None:
    program = "import sys, modum.plan.estimate, modum.simulate; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    rooms = ("modum.box.server", "modum.box.client", "modum.box.transport", "modum.cluster", "modum.run", "torch")
    assert "modum.simulate.groups" in loaded
    assert [name for name in loaded if name.startswith(rooms)] == []


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
