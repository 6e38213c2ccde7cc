"""Where a training loop is at the end of a step, so that a checkpoint can be taken, or loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modum.samples.shared import Boundaries

if TYPE_CHECKING:
    from modum.averaging.worker import Worker
    from modum.job import Job

__all__ = ["Boundary"]


class Boundary(Boundaries):
    """Takes this worker's part of the job's checkpoints between steps, and loads its state before the first one.

    Args:
        job: of the worker.
        worker: that trains.
    """

    def __init__(self, job: Job, worker: Worker) -> None:
        self._checkpoints = job.checkpoints
        self._worker = worker
        self._steps = worker.steps
        self._stepped = True
        """Whether the last batches have ended in a step: else gradients of some of them are still to be applied."""

    def begin(self) -> None:
        self._checkpoints.resume()
        self._steps = self._worker.steps

    def due(self) -> int:
        return self._checkpoints.due if self._stepped else 0

    def between(self, number: int | None = None) -> bool:
        if number is None:
            self._stepped = self._worker.steps != self._steps
            self._steps = self._worker.steps
            if not self._stepped:
                return False
            number = self._worker.checkpoint
        return self._checkpoints.take(number)
