"""Who works in a box: every worker of a job is entered there, so that jobs cannot get mixed up unnoticed."""

from typing import Final

from modum.box import Box, Buffer
from modum.cluster.environment import ClusterEnvironment
from modum.errors import BufferExistsError, BufferNotFoundError, DeadlineError, MismatchError

__all__ = ["Registration", "check_free"]

_RECORD: Final = "modum/job"
_WORKERS: Final = "modum/worker/"
_FOREVER: Final = 1e9  # seconds: a worker's entry ends with its session
_PATIENCE: Final = 10.0  # seconds: an entry of a worker that has just died lasts a moment longer


class Registration:
    """This worker's entry in the list of the job's workers, until the box is closed.

    Raises:
        MismatchError: a worker of another world size or group size, or of this same rank, is there.
    """

    def __init__(self, box: Box, place: ClusterEnvironment) -> None:
        self.left = False
        self._box = box
        self._name = f"{_WORKERS}{place.rank}"
        with box.lock("modum/check-in", ttl=_PATIENCE, timeout=3 * _PATIENCE):
            self._compare(place)
            try:
                self._lease = box.lock(self._name, ttl=_FOREVER, timeout=_PATIENCE)
            except DeadlineError as error:
                raise MismatchError(
                    f"rank {place.rank} of {place.world_size} is at work in this box already ({error}): "
                    f"another job uses it\n{_hint(place.job)}"
                ) from None

    def leave(self) -> None:
        """Take this worker's entry out. Does nothing the second time."""
        if not self.left:
            self.left = True
            self._lease.release()

    def others(self) -> list[int]:
        """The ranks of the other workers that are there now."""
        names = (lease.name for lease in self._box.leases(_WORKERS))
        return sorted(int(name.removeprefix(_WORKERS)) for name in names if name != self._name)

    def _compare(self, place: ClusterEnvironment) -> None:
        ours = {"world_size": place.world_size, "group_size": place.group_size}
        record = self._record(ours)
        theirs = {name: record.meta[name] for name in ours}
        record.close()
        if theirs == ours:
            return
        if others := self.others():
            ranks = ", ".join(map(str, others[:8])) + (", ..." if len(others) > 8 else "")
            raise MismatchError(
                f"rank {place.rank} comes with world size {ours['world_size']} and group size {ours['group_size']}, "
                f"but rank {ranks} came with {theirs['world_size']} and {theirs['group_size']}\n"
                f"HINT: start all workers with the same numbers; or, if these are two jobs, give one another name "
                "(modum run --name, MODUM_JOB)"
            )
        self._box.delete(_RECORD)  # of a job that has ended
        self._record(ours).close()

    def _record(self, ours: dict[str, int]) -> Buffer:
        try:
            return self._box.open(_RECORD)
        except BufferNotFoundError:
            try:
                return self._box.create(_RECORD, 1, "int64", meta=ours)
            except BufferExistsError:
                return self._box.open(_RECORD)


def check_free(box: Box, job: str) -> None:
    """Raise `MismatchError` if workers of a job are in `box` now; `job` is the name of the box's namespace."""
    there = len(box.leases(_WORKERS))
    if there:
        raise MismatchError(
            f"{there} {'worker' if there == 1 else 'workers'} of a job "
            f"{f'called {job!r}' if job else 'without a name'} use this box now\n{_hint(job)}"
        )


def _hint(job: str) -> str:
    other = "another" if job else "a"
    return f"HINT: give this job {other} name: modum run --name second, or MODUM_JOB=second for every worker"
