"""How workers tell each other what they need before there is a box."""

import contextlib
from abc import ABC, abstractmethod
from typing import Self

from modum.box import Box
from modum.coordination.rendezvous import Rendezvous
from modum.errors import DeadlineError, MismatchError, ModumError
from modum.waiting import poll

__all__ = ["WHAT", "BoxRendezvous", "LauncherRendezvous"]

WHAT = "modum.connect()"
"""What workers call to come together."""


class LauncherRendezvous(ABC):
    """All workers of a job, come together by their launcher's own means; a context manager that parts them.

    Attributes:
        address: name or address of a host that every worker reached to come here; None: the launcher hides it.
    """

    address: str | None = None

    @abstractmethod
    def gather(self, text: str) -> list[str]:
        """Return what every worker gave, by rank; all call it, equally often.

        Args:
            text: what this worker gives.

        Returns:
            The texts of all workers, by rank.

        Raises:
            DeadlineError: somebody did not come; the message names the ranks where the launcher lets us know.
        """

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Leave; nobody is held up by those who have not read the last round yet."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class BoxRendezvous(LauncherRendezvous):
    """A rendezvous in a small box of its own, whose one server lives in rank 0's process.

    Args:
        box: this worker's client; closed with this object, and if it cannot be made.
        rank: of this worker.
        world_size: number of workers.
        timeout: seconds that the first worker waits for the last one, each time.
        address: see `LauncherRendezvous`.

    Raises:
        MismatchError: a worker of this rank has come before.
    """

    def __init__(self, box: Box, rank: int, world_size: int, timeout: float, address: str | None = None) -> None:
        self.address = address
        self._box = box
        self._rank = rank
        self._world_size = world_size
        self._timeout = timeout
        with contextlib.ExitStack() as failing:
            failing.callback(box.close)
            if box.counter(f"rank {rank}").add(1):
                raise MismatchError(
                    f"rank {rank} came twice to the rendezvous of {world_size} workers: two jobs meet at one place\n"
                    "HINT: start every job by a launcher of its own, or give it another port"
                )
            self._place = Rendezvous(box, "start", rank=rank, size=world_size, timeout=timeout, what=WHAT)
            failing.pop_all()

    def gather(self, text: str) -> list[str]:
        return [str(each) for each in self._place.gather(text)]

    def close(self) -> None:
        """Leave; rank 0 stays until all others have, or are gone."""
        left = self._box.counter("left")

        def alone() -> bool:
            # whoever has ended without a word is not waited for: only rank 0 itself is connected then
            return left.value >= self._world_size or self._box.statistics().servers[0].clients <= 1

        try:
            left.add(1)
            if self._rank == 0:
                poll(alone, timeout=self._timeout, every=0.01, error=DeadlineError)
        except ModumError:
            pass  # rank 0 has gone, or was the last; or somebody hangs
        finally:
            self._box.close()
