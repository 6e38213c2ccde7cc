"""Know which groups of a job have still to come to a training, so that nobody takes its weights for final."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from modum.errors import ModumError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from modum.box import Value
    from modum.job import Job

__all__ = ["Arrivals"]


class Arrivals:
    """The groups of a job that take part in a training, by the rank of each one's leader.

    The n-th `Arrivals` of a name in all workers are one.

    Args:
        job: whose workers they are.
        name: the training's.
        leader: the rank of this group's leader.
        leaders: the ranks of all leaders that are to come.
    """

    def __init__(self, job: Job, name: str, leader: int, leaders: Sequence[int]) -> None:
        what = f"{name}/came"
        self._job = job
        self._name = f"{what}/{job.attempt}/{job.counts[what]}"
        self._leader = leader
        self._unseen = [rank for rank in leaders if rank != leader]
        job.counts[what] += 1

    def come(self) -> None:
        """Note that this group has come, and is a member of the training already."""
        self._came(self._name, self._leader).set(True)

    def missing(self) -> dict[int, str]:
        """Return the leaders that have not come and may come still, each with its host: empty if not known yet.

        One that has left the job, or died, is not missing, nor one that waits in `waiting` of another training, to
        which this group has not come either.
        """
        self._unseen = [rank for rank in self._unseen if self._came(self._name, rank).get() is None]
        apart = {rank for rank in self._unseen if self._trains_another(rank)}
        self._unseen = [rank for rank in self._unseen if rank not in apart]
        return self._job.awaited(self._unseen)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Note that this worker waits inside the `with` block for the others to end this training."""
        where = self._waits(self._leader)
        where.set(self._name)
        try:
            yield
        finally:
            with suppress(ModumError):
                where.delete()

    def _trains_another(self, rank: int) -> bool:
        training = self._waits(rank).get()
        if training in (None, self._name):
            return False
        # said there, so that it does not wait for this group when this one waits no more
        return self._came(training, self._leader).set_default(False) is False

    def _came(self, training: str, rank: int) -> Value:
        return self._job.box.value(f"{training}/{rank}")

    def _waits(self, rank: int) -> Value:
        return self._job.box.value(f"modum/waits/{self._job.attempt}/{rank}")
