"""Run a scenario."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import simpy

from modum.simulate.groups import AsynchronousJob, Group
from modum.simulate.record import Record
from modum.simulate.report import Report
from modum.simulate.scenario import Scenario
from modum.simulate.synchronous import synchronous_job
from modum.simulate.trained import TrainedGroup
from modum.simulate.training import Classifier, Trainer

if TYPE_CHECKING:
    from collections.abc import Generator

MOST_TIMES = 1000
"""Give up a job that takes so many times as long as it would without waiting."""
EVALUATIONS = 60
"""How often to measure the accuracy in the job's time without waiting."""


def simulate(scenario: Scenario, *, train: bool | Trainer = False) -> Report:
    """Run a scenario to its end, in virtual time; the same scenario gives exactly the same report.

    Args:
        scenario: the scenario to run.
        train: whether the workers compute real gradients, of a small classifier or by a trainer, and average as
            a job's workers do; the report then has the accuracy over virtual seconds. What crosses the links is still
            `scenario.nbytes`.

    Returns:
        What happened, in virtual time.
    """
    environment = simpy.Environment()
    record = Record()
    trainer = train if isinstance(train, Trainer) else Classifier(scenario.seed) if train else None
    ideal = scenario.steps * scenario.cluster.workers / scenario.speed
    if trainer is not None:
        environment.process(_watch(environment, trainer, ideal / EVALUATIONS))
    limit = environment.timeout(MOST_TIMES * (ideal + scenario.join_seconds))
    if scenario.synchronous:
        done = environment.process(synchronous_job(scenario, environment, record, trainer))
        environment.run(until=done | limit)
        finished = environment.now if done.triggered else None
        steps, busy, nbytes = sum(record.step_counts), None, _ring_bytes(scenario, len(record.intervals))
    else:
        group = Group if trainer is None else partial(TrainedGroup, trainer=trainer)
        job = AsynchronousJob(scenario, environment, record, group)
        environment.run(until=environment.all_of(job.places) | limit)
        finished, steps = job.pool.finished, job.pool.done
        links = {job.incoming, job.outgoing}
        nbytes = sum(link.nbytes for link in links) * job.directions
        busy = max(link.busy for link in links)
    if trainer is not None:
        trainer.evaluate(finished or environment.now)
    return Report.of(
        scenario,
        record,
        seconds=finished or environment.now,
        finished=finished is not None,
        steps=steps,
        nbytes=nbytes,
        busy_seconds=busy,
        curve=None if trainer is None else trainer.curve,
    )


def _watch(environment: simpy.Environment, trainer: Trainer, seconds: float) -> Generator[simpy.Event, object, None]:
    while True:
        trainer.evaluate(environment.now)
        yield environment.timeout(seconds)


def _ring_bytes(scenario: Scenario, steps: int) -> float:
    """Return the bytes that all workers send and receive in rings."""
    return 4.0 * (scenario.cluster.workers - 1) * scenario.nbytes * steps
