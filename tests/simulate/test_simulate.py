import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from modum.averaging.schedule import Schedule
from modum.plan import Cluster, estimate
from modum.simulate import Report, Scenario, simulate

FAST = Cluster(workers=8, link=7e9)
"""Links on which an exchange of 100 MB takes little of a step of 200 ms."""


def run(cluster: Cluster = FAST, **options: Any) -> Report:
    return simulate(Scenario(cluster=cluster, **options))


def test_the_same_seed_gives_the_same_numbers_and_another_does_not() -> None:
    scenario = Scenario(cluster=FAST, spread=0.2, failure_seconds=20, replace_seconds=2, steps=100)
    first, second = simulate(scenario), simulate(scenario)
    assert first.as_dict() == second.as_dict()
    assert first.record.step_ends == second.record.step_ends
    assert simulate(replace(scenario, seed=1)).seconds != first.seconds


def test_training_does_not_change_the_times_of_fixed_steps() -> None:
    scenario = Scenario(cluster=Cluster(workers=4, link=7e9), steps=30, interval=3)
    with_gradients = simulate(scenario, train=True)
    assert with_gradients.seconds == pytest.approx(simulate(scenario).seconds, rel=0.02)


@pytest.mark.parametrize("group_size", [1, 2])
@pytest.mark.parametrize("rule", ["elastic", "downpour"])
def test_every_step_is_done_once(rule: Any, group_size: int) -> None:
    report = run(Cluster(workers=8, group_size=group_size, link=7e9), rule=rule, spread=0.3, steps=50)
    assert report.finished
    assert report.steps == 400
    assert sum(report.record.step_counts) == pytest.approx(400, abs=group_size)
    assert report.exchanges == len(report.record.exchange_seconds)


def test_what_died_with_a_worker_is_done_again() -> None:
    report = run(spread=0.1, steps=200, failure_seconds=30, replace_seconds=3, interval=4)
    assert report.failures > 3
    assert report.lost_steps > 0
    assert report.finished
    assert report.steps == 1600
    assert sum(report.record.step_counts) == 1600 + report.lost_steps
    assert min(report.record.alive) < 8


def test_a_job_without_survivors_ends_without_its_steps() -> None:
    report = run(spread=0.1, steps=1000, failure_seconds=10)
    assert not report.finished
    assert report.failures == 8
    assert report.steps < 8000


def test_joiners_are_counted_from_when_they_come() -> None:
    alone = run(Cluster(workers=4, link=7e9), spread=0.1, steps=100)
    report = run(spread=0.1, steps=100, joiners=4, join_seconds=5)
    assert report.record.alive[0] == 1
    assert max(report.record.alive) == 8
    assert report.efficiency == pytest.approx(alone.efficiency, abs=0.03)
    assert report.seconds == pytest.approx(20 + 5 / 2, rel=0.08)  # four workers were missing for 5 s


def test_a_straggler_holds_up_a_synchronous_job_and_nobody_else() -> None:
    slow: dict[str, Any] = {"spread": 0.05, "steps": 300, "stragglers": 1, "slowdown": 4.0}
    elastic, synchronous = run(**slow), run(**slow, rule="allreduce")
    assert elastic.efficiency > 0.94
    # all 8 at a quarter of the speed, of 7.25 speeds
    assert synchronous.efficiency == pytest.approx(8 / 4 / 7.25, rel=0.05)


def test_a_group_is_as_fast_as_its_slowest() -> None:
    report = run(Cluster(workers=8, group_size=4, link=7e9, bus=1e15, copy=1e15), steps=100, stragglers=1, slowdown=2)
    assert report.goodput == pytest.approx((4 + 4 / 2) / 0.2, rel=0.03)


def test_what_is_stale_is_what_the_others_did_meanwhile() -> None:
    report = run(interval=2, steps=100)
    assert report.staleness.median == 7
    assert run(Cluster(workers=1, link=7e9), interval=2).staleness.largest == 0


def test_the_interval_follows_the_exchange_as_the_real_schedule_does() -> None:
    cluster = Cluster(workers=1, link=200e6, latency=0, copy=1e15)
    report = run(cluster, steps=60, spread=0.2)
    clock = [0.0]
    schedule = Schedule("auto", lambda: clock[0])
    seconds = report.exchange_seconds.median
    for _ in range(20):
        schedule.resume()
        clock[0] += 0.2
        schedule.step()
        schedule.exchanged(seconds)
    assert report.interval.median == schedule.wanted == 3


@pytest.mark.parametrize("workers", [2, 8, 32])
@pytest.mark.parametrize("servers", [1, 4])
def test_plan_and_simulation_agree(workers: int, servers: int) -> None:
    """In the steady state, away from saturation, with steps that differ enough for groups to meet by chance."""
    cluster = Cluster(workers=workers, servers=servers, link=7e9, server_memory=100e9)
    interval = 4 if workers == 32 else 1
    for overlap in (True, False):
        plan = estimate(cluster, 100_000_000, 0.2, interval=interval, overlap=overlap)
        times: dict[str, Any] = {"spread": 0.9, "distribution": "exponential", "steps": 800}
        report = run(cluster, interval=interval, overlap=overlap, **times)
        assert plan.bottleneck.load < 0.8
        assert report.exchange_seconds.mean == pytest.approx(plan.exchange_seconds, rel=0.15)
        assert report.efficiency == pytest.approx(plan.efficiency, rel=0.03)


def test_plan_and_simulation_agree_about_all_reduce_and_hybrid() -> None:
    for link in (7e9, 1e9, 100e6):
        cluster = Cluster(workers=8, link=link)
        plan = estimate(cluster, 100_000_000, 0.2, rule="allreduce")
        assert run(cluster, rule="allreduce").efficiency == pytest.approx(plan.efficiency)
    cluster = Cluster(workers=16, group_size=4, link=7e9)
    plan = estimate(cluster, 100_000_000, 0.2)
    assert run(cluster, steps=400).efficiency == pytest.approx(plan.efficiency, rel=0.02)


def test_means_and_spreads_of_steps_are_those_asked_for() -> None:
    for distribution in ("lognormal", "exponential"):
        report = run(
            Cluster(workers=1, link=1e12), spread=0.5, distribution=distribution, interval=1, steps=20_000, nbytes=4
        )
        ends = np.diff(report.record.step_ends)
        assert ends.mean() == pytest.approx(0.2, rel=0.02)
        assert ends.std() == pytest.approx(0.1, rel=0.05)


def test_a_thousand_workers_take_seconds_of_one_core() -> None:
    cluster = Cluster(workers=1000, servers=64, link=7e9)
    start = time.process_time()
    report = run(cluster, spread=0.1, steps=100, interval=1)
    assert report.steps == 100_000
    # a tenth of 1,000 x 1,000 steps, which must take less than a minute
    assert time.process_time() - start < 6


def test_ten_thousand_workers_are_the_most() -> None:
    cluster = Cluster(workers=10_000, group_size=8, servers=100, link=7e9)
    assert simulate(Scenario(cluster=cluster, steps=3)).steps == 30_000
    with pytest.raises(ValueError, match=r"workers \(10001\) must be at most 10000"):
        Scenario(cluster=Cluster(workers=10_001))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps"),
        ({"step_seconds": 0.0}, "step_seconds"),
        ({"slowdown": 0.5}, "slowdown"),
        ({"stragglers": 9}, r"stragglers \(9\) must be at most workers \(8\)"),
        ({"joiners": 8}, "joiners"),
        ({"rule": "easgd"}, "elastic, drift, downpour, allreduce"),
        ({"distribution": "normal"}, "lognormal, exponential"),
        ({"interval": 0}, "interval"),
        ({"rule": "allreduce", "failure_seconds": 5.0}, "replace_seconds"),
        ({"rule": "allreduce", "joiners": 1}, "nobody can join"),
        ({"distribution": "exponential", "spread": 2.0}, "at most 1"),
    ],
)
def test_mistakes_are_told_before_anything_runs(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scenario(cluster=FAST, **options)
