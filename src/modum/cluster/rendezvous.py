"""How workers tell each other what they need before there is a box."""

import time
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from modum.box import Box, BufferInfo
from modum.errors import DeadlineError, MismatchError, ModumError

__all__ = ["BoxRendezvous", "Rendezvous", "missing"]


class Rendezvous(ABC):
    """All workers of a job, come together by their launcher's own means; a context manager that parts them.

    address
        Name or address of a host that every worker reached to come here, or None: the launcher hides it.
    """

    address: str | None = None

    @abstractmethod
    def gather(self, text: str) -> list[str]:
        """What every worker gave, by rank; all call it, equally often.

        Raises:
            DeadlineError: somebody did not come; the message names the ranks where the launcher lets us know.
        """

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Part; nobody is held up by those who have not read the last round yet."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def missing(absent: list[int], world_size: int, seconds: float) -> DeadlineError:
    """The error for a round to which the ranks `absent` did not come."""
    shown = ", ".join(map(str, absent[:8])) + (", ..." if len(absent) > 8 else "")
    return DeadlineError(
        f"{len(absent)} of {world_size} workers (rank {shown}) did not come to modum.connect() within {seconds:g} s\n"
        "HINT: look for the first error in their output; every worker has to call modum.connect()"
    )


class BoxRendezvous(Rendezvous):
    """A meeting in a small box of its own, which lives in rank 0's process."""

    def __init__(self, box: Box, rank: int, world_size: int, seconds: float) -> None:
        self._box = box
        self._rank = rank
        self._world_size = world_size
        self._seconds = seconds
        self._round = 0
        taken = box.counter(f"rank {rank}").add(1)
        if taken:
            raise MismatchError(
                f"rank {rank} came twice to the meeting of {world_size} workers: two jobs meet at one place\n"
                "HINT: start every job by a launcher of its own, or give it another port"
            )

    def gather(self, text: str) -> list[str]:
        name = f"round {self._round}"
        self._round += 1
        self._box.create(f"{name}/{self._rank}", 1, "int64", meta={"text": text}).close()
        came = self._box.counter(name)
        came.add(1)
        try:
            came.wait(self._world_size, self._seconds)
        except DeadlineError:
            here = self._texts(name)
            absent = [rank for rank in range(self._world_size) if rank not in here]
            raise missing(absent, self._world_size, self._seconds) from None
        texts = self._texts(name)
        return [texts[rank] for rank in range(self._world_size)]

    def _texts(self, name: str) -> dict[int, str]:
        return {int(info.name.rpartition("/")[2]): _text(info) for info in self._box.list() if _round(info) == name}

    def close(self) -> None:
        """Part; rank 0 stays until all others have, or are gone."""
        try:
            left = self._box.counter("left")
            left.add(1)
            if self._rank == 0:
                deadline = time.monotonic() + self._seconds
                while left.value < self._world_size and time.monotonic() < deadline:
                    # whoever has ended without a word is not waited for: only rank 0 itself is connected then
                    if self._box.statistics().servers[0].clients <= 1:
                        break
                    time.sleep(0.01)
        except ModumError:
            pass  # rank 0 has gone, or was the last
        finally:
            self._box.close()


def _round(info: BufferInfo) -> str:
    return info.name.rpartition("/")[0]


def _text(info: BufferInfo) -> str:
    return str(info.meta["text"])
