"""The steps of a job, handed out to its groups as samples are: a dead group's steps are handed out again."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import simpy


class StepPool:
    """Identical steps of single workers; a group of m takes m of them for each of its steps."""

    def __init__(self, environment: simpy.Environment, steps: int) -> None:
        self._environment = environment
        self._steps = self._left = steps
        self._unconfirmed = steps
        self._change = environment.event()
        self.done = 0
        """Steps that are in the shared weights."""
        self.finished: float | None = None
        """When a group confirmed last, with all steps in the shared weights."""

    @property
    def progress(self) -> float:
        """How many of the steps were handed out, 0 to 1."""
        return 1 - self._left / self._steps

    def take(self, steps: int, members: int) -> int:
        """Take up to `steps` steps for each of `members` workers; return how many, 0 when none is left."""
        steps = min(steps, -(-self._left // members))
        self._left -= min(self._left, steps * members)
        return steps

    def give_back(self, steps: int) -> None:
        """Put a dead group's steps back into the pool."""
        self._left += steps
        self._wake()

    def confirm(self, steps: int) -> None:
        """Confirm that steps of a group are in the shared weights."""
        self.done += steps
        self._unconfirmed -= steps
        if self._unconfirmed <= 0:
            self.finished = self._environment.now
            self._wake()

    def change(self) -> simpy.Event:
        """Return an event that occurs when there are steps again, or when all are done."""
        return self._change

    def _wake(self) -> None:
        change, self._change = self._change, self._environment.event()
        change.succeed()
