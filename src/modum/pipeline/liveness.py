"""Know which stages of a pipeline are alive: each has a place in a roster, so that none waits for a dead one."""

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

from modum.box import Box, Counter
from modum.coordination.liveness import Member, Roster
from modum.errors import DeadlineError, MismatchError, StageError
from modum.pipeline.channel import Wait
from modum.waiting import Deadline

__all__ = ["StageRoster"]

_LOOK_SECONDS: Final = 0.5
"""How often a waiting stage checks whether the others are alive."""
CLAIM_SECONDS: Final = 5.0
"""How long a worker that has just died may still hold a stage."""


class StageRoster:
    """The stages of one pipeline, as one of them sees the others.

    Args:
        box: where the pipeline is.
        name: name of the pipeline there; it can be used only once.
        places: name of each stage in errors, in order.
        index: this worker's stage.
        timeout: seconds that any wait may take.

    Attributes:
        place: name of this worker in errors.
    """

    def __init__(self, box: Box, name: str, places: Sequence[str], index: int, timeout: float) -> None:
        self.place = places[index]
        self._name = name
        self._places = places
        self._index = index
        self._timeout = timeout
        # a stage that hangs is found by the deadlines of those who wait for it
        self._roster = Roster(box, f"{name}/stage")
        self._joined = box.counter(f"{name}/joined")
        self._stopped = threading.Event()

    def join(self) -> Member:
        """Take this stage's place, and wait until all stages have taken theirs.

        Returns:
            The place: `leave(done=True)` gives it up with everything done; after `leave()` the others see this stage
            as dead.

        Raises:
            MismatchError: another worker has this place, or the name was used before.
            StageError: another stage has failed.
            DeadlineError: some did not come within the timeout; the message names them.
        """
        try:
            member = self._roster.join(str(self._index), timeout=CLAIM_SECONDS)
        except DeadlineError as error:
            raise MismatchError(
                f"{self.place}: another worker has this stage already ({error})\n"
                "HINT: every worker needs a rank of its own: start them with `modum run`"
            ) from None
        with ExitStack() as failing:
            failing.callback(member.leave)
            self._meet()
            failing.pop_all()
        return member

    def _meet(self) -> None:
        """Wait until every stage has its place."""
        if self._joined.add(1) >= len(self._places):
            raise MismatchError(
                f"{self.place}: pipeline {self._name!r} was used before in this box\n"
                "HINT: give this one another name=..."
            )
        try:
            self.waiting("start: waiting for the other stages", starting=True)(self._joined, len(self._places))
        except DeadlineError as error:
            alive = self._roster.alive()
            missing = ", ".join(place for index, place in enumerate(self._places) if str(index) not in alive)
            raise DeadlineError(f"{error}; not there: {missing}") from None

    def waiting(self, phase: str, *, starting: bool = False) -> Wait:
        """Return a function that waits for a counter, at most for the timeout.

        It raises `StageError` if a stage has failed or (unless `starting`) is gone, and `DeadlineError`, naming this
        stage and `phase`, when time is up.
        """

        def wait(counter: Counter, at_least: int) -> int:
            deadline = Deadline(self._timeout)
            while True:
                try:
                    return counter.wait(at_least, min(deadline.left, _LOOK_SECONDS))
                except DeadlineError:
                    if self._stopped.is_set():
                        raise StageError(f"{self.place}: {phase}: given up, as this worker is leaving") from None
                    self.check(starting=starting)
                    if deadline.passed:
                        raise DeadlineError(f"{self.place}: {phase}: nothing came in {self._timeout:g} s") from None

        return wait

    def fail(self, error: BaseException) -> None:
        """Tell the others that this stage has failed, unless a failure was reported already."""
        # a StageError belongs to the stage where it began
        itself = isinstance(error, StageError)
        self._roster.fail(str(error) if itself else f"{self.place} failed: {type(error).__name__}: {error}")

    def stop(self) -> None:
        """End the waits of this worker's other threads."""
        self._stopped.set()

    def check(self, *, starting: bool = False) -> None:
        """Check that the other stages are alive and have not failed.

        Args:
            starting: whether stages may be missing because they have not come yet.

        Raises:
            StageError: a stage has failed, or (unless `starting`) is gone with work left.
        """
        self._check_failure()
        if starting:
            return
        if gone := [self._places[int(index)] for index in self._roster.lost(map(str, range(len(self._places))))]:
            self._check_failure()  # it may have reported a failure in the meantime
            raise StageError(f"{' and '.join(gone)}: its process has ended or was cut off; {self.place} cannot go on")

    def _check_failure(self) -> None:
        if (failure := self._roster.failure()) is not None:
            raise StageError(failure)
