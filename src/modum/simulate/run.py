"""Runs a scenario."""

from __future__ import annotations

from typing import TYPE_CHECKING

import simpy

from modum.simulate.groups import AsynchronousJob
from modum.simulate.record import Record
from modum.simulate.report import Report
from modum.simulate.scenario import Scenario
from modum.simulate.synchronous import synchronous_job
from modum.simulate.training import Trainer

if TYPE_CHECKING:
    from collections.abc import Generator

PATIENCE = 1000
"""A job that takes so many times the time that it would take without waiting makes no progress worth waiting for."""
EVALUATIONS = 60
"""How often the accuracy is looked at in that time."""


def simulate(scenario: Scenario, *, train: bool = False) -> Report:
    """Run ``scenario`` to its end, in virtual time; the same scenario gives the same report, number by number.

    train
        The workers compute real gradients of a small classifier, and the report has its accuracy over virtual
        seconds. What moves over the links is still ``scenario.nbytes``.
    """
    environment = simpy.Environment()
    record = Record()
    trainer = Trainer(scenario) if train else None
    ideal = scenario.steps * scenario.cluster.workers / scenario.speed
    if trainer is not None:
        environment.process(_watch(environment, trainer, ideal / EVALUATIONS))
    limit = environment.timeout(PATIENCE * (ideal + scenario.join_seconds))
    if scenario.rule == "allreduce":
        done = environment.process(synchronous_job(scenario, environment, record, trainer))
        environment.run(until=done | limit)
        finished = environment.now if done.triggered else None
        steps, busy, nbytes = sum(record.step_counts), None, _ring_bytes(scenario, len(record.intervals))
    else:
        job = AsynchronousJob(scenario, environment, record, trainer)
        environment.run(until=environment.all_of(job.places) | limit)
        finished, steps = job.pool.finished, job.pool.done
        links = {job.incoming, job.outgoing}
        nbytes = sum(link.nbytes for link in links) * (1 if scenario.rule == "downpour" else 2)
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
    """What all workers send and receive in rings."""
    return 4.0 * (scenario.cluster.workers - 1) * scenario.nbytes * steps
