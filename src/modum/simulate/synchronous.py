"""Simulate, for comparison, a synchronous job that averages gradients over all workers at every step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from modum.plan.estimate import all_reduce_step
from modum.simulate.steps import StepTimes, slowdowns, time_to_failure
from modum.simulate.training import Moment

if TYPE_CHECKING:
    from collections.abc import Generator

    import simpy

    from modum.simulate.record import Record
    from modum.simulate.scenario import Scenario
    from modum.simulate.training import Trainer


def synchronous_job(
    scenario: Scenario, environment: simpy.Environment, record: Record, trainer: Trainer | None = None
) -> Generator[simpy.Event, object, None]:
    """Run a job in which each step takes as long as the slowest worker's, and then waits for the ring.

    A failure costs the step in which it happens and `replace_seconds`, assuming that the job can resume from any step,
    which real checkpoints do not allow.
    """
    cluster = scenario.cluster
    generator = np.random.default_rng(scenario.seed)
    times = StepTimes(scenario, slowdowns(scenario), generator)
    workers = cluster.workers
    record.changed(0.0, workers)
    dies = time_to_failure(scenario, workers, generator)
    learner = trainer.learner(trainer.shared, workers) if trainer else None
    done = 0
    while done < scenario.steps:
        local = times.take(1)
        step = all_reduce_step(cluster, scenario.nbytes, local, overlap=scenario.overlap)
        if environment.now + step > dies:
            yield environment.timeout(dies - environment.now)
            record.failures += 1
            record.lost_steps += workers
            assert scenario.replace_seconds is not None
            record.changed(environment.now, 0)
            yield environment.timeout(scenario.replace_seconds)
            record.changed(environment.now, workers)
            dies = environment.now + time_to_failure(scenario, workers, generator)
            continue
        yield environment.timeout(step)
        done += 1
        record.stepped(environment.now, workers)
        record.exchange_seconds.append(step - local)
        record.intervals.append(1)
        record.staleness.append(0)
        if learner is not None:
            learner.step(Moment((done - 1) / scenario.steps, done - 1, 1))
