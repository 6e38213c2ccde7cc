"""Workers that come together in the box and tell each other something small."""

from typing import Any

from modum.box import Box
from modum.errors import DeadlineError

__all__ = ["Rendezvous", "missing"]

_SHOWN = 8


class Rendezvous:
    """A place in the box where `size` workers meet, as often as they like.

    Args:
        box: of all of them.
        name: of the place; who makes it anew under the same name meets those who have made it as often.
        rank: this worker's number, from 0.
        size: how many workers meet.
        timeout: seconds that the first one waits for the last one, each time.
    """

    def __init__(self, box: Box, name: str, *, rank: int, size: int, timeout: float) -> None:
        self._box = box
        self._rank = rank
        self._size = size
        self._timeout = timeout
        self._name = f"{name}/{box.counter(f'{name}/made/{rank}').add(1)}"
        self._round = 0

    def gather(self, value: Any) -> list[Any]:
        """Return what every worker gave, by rank; all call it, equally often.

        Args:
            value: plain, as `Box.value` takes it; None too.

        Raises:
            DeadlineError: somebody did not come; the message has the ranks.
        """
        name = f"{self._name}/{self._round}"
        self._round += 1
        self._box.value(f"{name}/{self._rank}").set([value])
        came = self._box.counter(name)
        came.add(1)
        try:
            came.wait(self._size, self._timeout)
        except DeadlineError:
            absent = [rank for rank in range(self._size) if self._box.value(f"{name}/{rank}").get() is None]
            raise missing(absent, self._size, self._timeout) from None
        return [self._box.value(f"{name}/{rank}").get()[0] for rank in range(self._size)]

    def barrier(self) -> None:
        """Wait until all workers are here."""
        self.gather(None)


def missing(absent: list[int], size: int, timeout: float) -> DeadlineError:
    """Return the error for a round to which the ranks `absent` of `size` workers did not come."""
    shown = ", ".join(map(str, absent[:_SHOWN])) + (", ..." if len(absent) > _SHOWN else "")
    return DeadlineError(
        f"{len(absent)} of {size} workers (rank {shown}) did not come within {timeout:g} s\n"
        "HINT: look for the first error in their output; every worker has to come here"
    )
