"""Let workers exchange what they need before there is a box."""

import contextlib
from abc import ABC, abstractmethod
from typing import Self

from modum.box import Box
from modum.coordination.rendezvous import Rendezvous
from modum.errors import DeadlineError, MismatchError, ModumError
from modum.waiting import poll

__all__ = ["WHAT", "BoxRendezvous", "LauncherRendezvous"]

WHAT = "modum.connect()"
"""The call by which workers meet."""


class LauncherRendezvous(ABC):
    """A meeting of all workers of a job, by their launcher's own means; a context manager that leaves it.

    Attributes:
        address: name or address of a host that every worker reached to meet here; None: the launcher hides it.
    """

    address: str | None = None

    @abstractmethod
    def gather(self, text: str) -> list[str]:
        """Exchange a text with every worker; all must call it equally often.

        Args:
            text: this worker's text.

        Returns:
            The texts of all workers, by rank.

        Raises:
            DeadlineError: a worker did not come; the message names the ranks if the launcher makes them known.
        """

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Leave, without disturbing workers that have not read the last round yet."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class BoxRendezvous(LauncherRendezvous):
    """A rendezvous in a small box of its own, whose one server lives in rank 0's process.

    Args:
        box: this worker's client; closed with this object, and if the constructor fails.
        rank: this worker's rank.
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
        """Leave; rank 0 waits until all others have left or are gone."""
        left = self._box.counter("left")

        def alone() -> bool:
            # does not wait for workers that died: only rank 0 itself is connected then
            return left.value >= self._world_size or self._box.statistics().servers[0].clients <= 1

        try:
            left.add(1)
            if self._rank == 0:
                poll(alone, timeout=self._timeout, every=0.01, error=DeadlineError)
        except ModumError:
            pass  # rank 0 has gone, or was the last; or a worker hangs
        finally:
            self._box.close()
