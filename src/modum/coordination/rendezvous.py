"""Let all members of a job, or of a group, exchange small values in the box."""

from collections.abc import Sequence
from typing import Any, Final

from modum.box import Box
from modum.errors import DeadlineError

__all__ = ["Rendezvous", "missing"]

_SHOWN: Final = 8


class Rendezvous:
    """A place in the box where `size` members meet any number of times; all go through the same rounds.

    A member that makes it anew under the same name meets those that have made it as often. Only a few counters are left
    in the box once a round is over.

    Args:
        box: the members' box.
        name: the place's. It is used up if a member dies before all have come.
        rank: this member's number, from 0 to `size` - 1.
        size: how many members meet.
        timeout: seconds that the first one waits for the last one, each time.
        what: the call by which members come here, for the message when some do not.
    """

    def __init__(self, box: Box, name: str, *, rank: int, size: int, timeout: float, what: str = "") -> None:
        self._box = box
        self._name = f"{name}/{box.counter(f'{name}/made/{rank}').add(1)}"
        self._rank = rank
        self._size = size
        self._timeout = timeout
        self._what = what or f"the rendezvous {name!r}"
        self._came = box.counter(f"{self._name}/came")
        self._read = box.counter(f"{self._name}/read")
        self._round = 0

    def gather(self, value: Any) -> list[Any]:
        """Exchange a value with every member; all must call it equally often.

        Args:
            value: a value that `Value.set` takes, or None.

        Returns:
            The values of all members, by rank.

        Raises:
            DeadlineError: some did not come within the timeout; the message has their ranks. The rendezvous is unusable
                then.
        """
        values = [self._box.value(f"{self._name}/{self._round}/{rank}") for rank in range(self._size)]
        self._round += 1
        values[self._rank].set([value])
        self._came.add(1)
        try:
            # no member is a round ahead before all have come to this one
            self._came.wait(self._round * self._size, self._timeout)
        except DeadlineError:
            absent = [rank for rank, each in enumerate(values) if each.get() is None]
            raise missing(absent, self._size, self._timeout, self._what) from None
        answers = [each.get()[0] for each in values]
        if self._read.add(1) + 1 == self._round * self._size:  # the last one that has read clears away
            for each in values:
                each.delete()
        return answers

    def barrier(self) -> None:
        """Wait until all members have come.

        Raises:
            DeadlineError: as in `gather`.
        """
        self.gather(None)


def missing(absent: Sequence[int], size: int, timeout: float, what: str) -> DeadlineError:
    """Return the error for a round to which some of `size` members did not come.

    Args:
        absent: their ranks.
        size: how many members there should be.
        timeout: seconds that the others have waited.
        what: the call by which members come.

    Returns:
        The error, to raise.
    """
    shown = ", ".join(map(str, absent[:_SHOWN])) + (", ..." if len(absent) > _SHOWN else "")
    return DeadlineError(
        f"{len(absent)} of {size} workers (rank {shown}) did not come to {what} within {timeout:g} s\n"
        f"HINT: look for the first error in their output; every worker has to come to {what}"
    )
