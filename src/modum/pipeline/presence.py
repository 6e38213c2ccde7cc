"""Who is in a pipeline: every stage holds a lease, so that nobody waits for one that has died."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from modum.errors import BufferExistsError, BufferNotFoundError, DeadlineError, MismatchError, StageError

if TYPE_CHECKING:
    from modum.box import Box, Counter, Lease
    from modum.pipeline.channel import Wait

__all__ = ["Presence"]

_LOOK_SECONDS: Final = 0.5
"""While one waits, how often one looks whether the others are alive."""
_LEASE_SECONDS: Final = 7 * 86400.0
"""A lease ends with its process; who hangs is found by the deadlines of those who wait."""
_CLAIM_SECONDS: Final = 5.0
"""How long a stage may be held by a worker that has just died."""
_MOST_TEXT: Final = 4000


class Presence:
    """This worker's place in one pipeline, and its view of the others.

    name
        Of the pipeline, in the box: once used, it is used up.
    places
        What each stage is called in errors, in order.
    index
        This worker's stage.
    timeout
        Seconds that any wait may take.
    """

    def __init__(self, box: Box, name: str, places: list[str], index: int, timeout: float) -> None:
        self.place = places[index]
        self._box = box
        self._name = name
        self._places = places
        self._index = index
        self._timeout = timeout
        self._joined = box.counter(f"{name}/joined")
        self._lease: Lease | None = None
        self._stopped = threading.Event()

    def join(self) -> None:
        """Take this stage's place, and wait until all stages have taken theirs.

        Raises:
            MismatchError: another worker has this place, or the name was used before.
            DeadlineError: some did not come within the timeout; the message names them.
        """
        try:
            self._lease = self._box.lock(self._lease_name(self._index), ttl=_LEASE_SECONDS, timeout=_CLAIM_SECONDS)
        except DeadlineError as error:
            raise MismatchError(
                f"{self.place}: another worker has this stage already ({error})\n"
                "HINT: every worker needs a rank of its own: start them with `modum run`"
            ) from None
        if self._joined.add(1) >= len(self._places):
            raise MismatchError(
                f"{self.place}: pipeline {self._name!r} was used before in this box\n"
                "HINT: give this one another name=..."
            )
        try:
            self.waiting("start: waiting for the other stages", starting=True)(self._joined, len(self._places))
        except DeadlineError as error:
            missing = ", ".join(self._places[index] for index in self._absent())
            raise DeadlineError(f"{error}; not there: {missing}") from None

    def waiting(self, phase: str, *, starting: bool = False) -> Wait:
        """A way to wait for a counter, for at most the timeout.

        It raises StageError if a stage has failed or (unless ``starting``) is not there, and DeadlineError with
        this stage and ``phase`` when time is up.
        """

        def wait(counter: Counter, at_least: int) -> int:
            deadline = time.monotonic() + self._timeout
            while True:
                left = deadline - time.monotonic()
                try:
                    return counter.wait(at_least, max(0.0, min(left, _LOOK_SECONDS)))
                except DeadlineError:
                    if self._stopped.is_set():
                        raise StageError(f"{self.place}: {phase}: given up, as this worker is leaving") from None
                    self.check(starting=starting)
                    if left <= _LOOK_SECONDS:
                        raise DeadlineError(f"{self.place}: {phase}: nothing came in {self._timeout:g} s") from None

        return wait

    def fail(self, error: BaseException) -> None:
        """Tell the others that this stage has failed, unless another one told them already."""
        text = f"{self.place} failed: {type(error).__name__}: {error}"
        if isinstance(error, StageError):
            text = str(error)  # that of the stage where it began
        try:
            self._box.create(f"{self._name}/failed", 1, "int64", meta={"failed": text[:_MOST_TEXT]}).close()
        except BufferExistsError:
            pass

    def stop(self) -> None:
        """End the waits of this worker's other threads."""
        self._stopped.set()

    def leave(self) -> None:
        """Give the place up, having done everything."""
        if self._lease is not None:
            self._left(self._index).add(1)
            self._lease.release()
            self._lease = None

    def abandon(self) -> None:
        """Give the place up without having done everything: for the others this stage has died."""
        if self._lease is not None:
            self._lease.release()
            self._lease = None

    def check(self, *, starting: bool = False) -> None:
        """Raises StageError if a stage has failed, or (unless ``starting``) is gone without having done everything."""
        self._check_failure()
        if starting:
            return
        if gone := [self._places[index] for index in self._absent() if not self._left(index).value]:
            self._check_failure()  # it may have told so in the meantime
            raise StageError(f"{' and '.join(gone)}: its process has ended or was cut off; {self.place} cannot go on")

    def _check_failure(self) -> None:
        try:
            buffer = self._box.open(f"{self._name}/failed")
        except BufferNotFoundError:
            return
        buffer.close()
        raise StageError(str(buffer.meta["failed"]))

    def _absent(self) -> list[int]:
        here = {lease.name for lease in self._box.leases(f"{self._name}/stage/")}
        return [index for index in range(len(self._places)) if self._lease_name(index) not in here]

    def _lease_name(self, index: int) -> str:
        return f"{self._name}/stage/{index}"

    def _left(self, index: int) -> Counter:
        return self._box.counter(f"{self._name}/left/{index}")
