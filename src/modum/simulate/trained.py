"""Simulate groups that train: their steps compute gradients, and `modum.averaging.Averaging` runs their rule."""

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import simpy

from modum.averaging.averaging import Averaging
from modum.parameters import ArrayVector
from modum.simulate.groups import AsynchronousJob, Group
from modum.simulate.training import Moment, Trainer
from modum.simulate.virtual import VirtualBuffer, VirtualGroup, VirtualTransfer, pause, running

if TYPE_CHECKING:
    from collections.abc import Generator

    from numpy.typing import NDArray

    from modum.box import Buffer


class _Alive:
    """The groups that take part, as one of them last counted them."""

    def __init__(self, job: AsynchronousJob) -> None:
        self._job = job
        self.groups = job.groups

    def count(self) -> None:
        """Count the groups."""
        self.groups = self._job.groups


class TrainedGroup(Group):
    """A group that steps one by one and runs its rule as a job does.

    Args:
        job: the group's job.
        place: the group's number.
        factors: slowdown of each member.
        generator: generator of the step times.
        trainer: computes the gradients and holds the shared weights.
    """

    def __init__(
        self,
        job: AsynchronousJob,
        place: int,
        factors: "NDArray[np.float64]",
        generator: np.random.Generator,
        trainer: Trainer,
    ) -> None:
        super().__init__(job, place, factors, generator)
        self._weights = trainer.shared.copy()
        self._learner = trainer.learner(self._weights, job.members)
        self._done = 0
        self._snapshots = 0.0
        """Seconds spent on snapshots, which the schedule does not count as steps."""
        self._alive = _Alive(job)
        self._buffer = VirtualBuffer(
            trainer.shared,
            self.scenario.nbytes,
            job.incoming,
            job.outgoing,
            job.tail,
            lambda: job.version,
            self._combined,
        )
        self._background = VirtualTransfer(
            self.environment,
            job.boundary,
            until=self._pause,
            submitted=self._submitted,
            finished=self._alive.count,
            collected=self._collected,
        )
        self._averaging = Averaging(
            job.rule,
            [ArrayVector(self._weights, trainer.statistics)],
            [cast("Buffer", self._buffer)],
            VirtualGroup(job.members),
            self._alive,
            self._background,
            lambda: self.environment.now - self._snapshots,
        )

    def _begun(self) -> None:
        self._alive.count()
        self._buffer.instant = True  # the group has already waited for them
        self._averaging.pull()
        self._buffer.instant = False

    def _train(self) -> "Generator[simpy.Event, object, None]":
        yield from running(self._steps)

    def _finish(self) -> "Generator[simpy.Event, object, None]":
        yield from running(self._averaging.finish)

    def _steps(self) -> None:
        """Step until no step of the job is left."""
        job = self.job
        while True:
            self._doing = job.pool.take(1, job.members)
            if not self._doing:
                return
            pause(self._pass(self.times.take(1) + job.group_average))
            self._learner.step(Moment(job.pool.progress, self._done, self._averaging.groups))
            self._done += 1
            self._stepped(1)
            late = self._averaging.statistics().put_off
            self._averaging.step()
            job.record.put_off += self._averaging.statistics().put_off - late
            snapshot = self._background.began - self.environment.now
            if snapshot > 0:
                pause(self._pass(snapshot))
                self._snapshots += snapshot

    def _pause(self, event: simpy.Event) -> None:
        """Wait for an event in a task, unless the group dies first."""
        for until in cast("Generator[simpy.Event, Any, None]", self._wait(event)):
            pause(until)

    def _abandon(self) -> None:
        self._background.close()
        if self._buffer.crossing is not None:
            self._buffer.crossing.cancel()
