"""Register every worker of a job in its box, so that jobs cannot be mixed up unnoticed."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from modum.box import Box
from modum.box.protocol.limits import GRACE
from modum.cluster.environment import ClusterEnvironment
from modum.coordination import Roster, held
from modum.errors import DeadlineError, LeaseLostError, MismatchError, ModumError
from modum.observe.progress import joined_workers
from modum.units import count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = [
    "Joined",
    "Registration",
    "Running",
    "check_free",
    "check_joins",
    "clear_places",
    "connected",
    "host_name",
    "note_ended",
]

_RECORD: Final = "modum/job"
_WORKERS: Final = "modum/worker"
_PLACES: Final = "modum/place"
"""Where each worker is, and in which run, by rank: kept when it has gone."""
_ENDED: Final = "modum/ended"
"""What the launcher knows: how workers have ended, by rank."""
CHECK_IN_SECONDS: Final = 60.0
"""How long a worker that is stopped, or cut off, may hold up those that register after it. Over a full link a request
can take seconds, and a dead worker's lease ends with its session anyway."""
_TRIES: Final = 3
CLAIM_SECONDS: Final = 10.0  # the entry of a worker that has just died lasts a moment longer
_SHOWN: Final = 8
_STOPPED_SECONDS: Final = 2 * GRACE
"""How long the workers of a job that was stopped may still be there, on a busy server."""


class Registration:
    """This worker's entry in the list of the job's workers, until it leaves or its box is closed.

    Args:
        box: the job's box, in the namespace of the job.
        place: this worker's place.

    Attributes:
        run: number of this run of the job in the box. Workers present at the same time have the same number; the first
            worker to come when none is there begins the next one.

    Raises:
        MismatchError: a worker with another world size or group size, or with this rank, is there. This one is not
            registered then.
        LeaseLostError: this process was stopped, or cut off, for long each time it registered, and is not registered.
    """

    def __init__(self, box: Box, place: ClusterEnvironment) -> None:
        self._box = box
        self._roster = Roster(box, _WORKERS)
        for left in reversed(range(_TRIES)):
            try:
                self._register(box, place)
                return
            except LeaseLostError:
                if not left:
                    raise

    def _register(self, box: Box, place: ClusterEnvironment) -> None:
        with (
            ExitStack() as failing,
            held(box, "modum/check-in", ttl=CHECK_IN_SECONDS, timeout=_TRIES * CHECK_IN_SECONDS) as lease,
        ):
            self.run = self._agree(box, place)
            try:
                self._member = self._roster.join(str(place.rank), timeout=CLAIM_SECONDS)
            except DeadlineError as error:
                raise MismatchError(
                    f"rank {place.rank} of {place.world_size} is at work in this box already ({error}): "
                    f"another job uses it\n{_hint(place.job)}"
                ) from None
            failing.callback(self._member.leave)
            box.value(f"{_PLACES}/{place.rank}").set([self.run, host_name()])
            lease.renew()  # else another worker may have seen neither this one nor its numbers
            failing.pop_all()

    def leave(self) -> None:
        """Remove this worker's entry, which ends with the session if the box is gone. Does nothing the second time."""
        self._member.leave()

    def others(self) -> list[int]:
        """Return the ranks of the other workers that are there now."""
        return sorted(int(rank) for rank in self._roster.alive() if rank != self._member.name)

    def awaited(self, ranks: Iterable[int]) -> dict[int, str]:
        """Return those of `ranks` that are there, with their hosts, or have not come yet, with an empty host."""
        ranks = list(ranks)
        places = {rank: self._box.value(f"{_PLACES}/{rank}").get() or [0, ""] for rank in ranks}
        alive = self._roster.alive() if ranks else {}  # after their places: who has one and is not alive has gone
        came = {rank: host for rank, (run, host) in places.items() if run == self.run}
        return {
            rank: came.get(rank, "")
            for rank in ranks
            if (str(rank) in alive if rank in came else self._box.value(f"{_ENDED}/{rank}").get() is None)
        }

    def wait_for_others(self, timeout: float | None) -> None:
        """Wait until the other workers have left, or died.

        Args:
            timeout: seconds; None: no limit.

        Raises:
            DeadlineError: some are still there after `timeout` seconds.
        """
        self._roster.wait_until_gone(but=self._member.name, timeout=timeout)

    def _agree(self, box: Box, place: ClusterEnvironment) -> int:
        """Return the number of the run, and check that this worker belongs to it."""
        ours = {"world_size": place.world_size, "group_size": place.group_size}
        record = box.value(_RECORD)
        theirs = record.get() or {"run": 0}
        others = sorted(map(int, self._roster.alive()))
        if place.launched is not None:
            check_joins(Running(box, place.job), place.group_size)
            return int(theirs["run"])
        if not others:
            run = int(theirs["run"]) + 1
            record.set({**ours, "run": run})
            return run
        if any(theirs[name] != value for name, value in ours.items()):
            ranks = ", ".join(map(str, others[:_SHOWN])) + (", ..." if len(others) > _SHOWN else "")
            raise MismatchError(
                f"rank {place.rank} comes with world size {ours['world_size']} and group size {ours['group_size']}, "
                f"but rank {ranks} came with {theirs['world_size']} and {theirs['group_size']}\n"
                f"HINT: start all workers with the same numbers; or, if these are two jobs, give one another name "
                "(modum run --name, MODUM_JOB)"
            )
        return int(theirs["run"])


class Running:
    """The job that runs in a box now, as somebody sees it who does not take part.

    Args:
        box: the job's box, in the namespace of the job.
        job: name of that namespace.

    Attributes:
        goes_on: whether any worker is there.
        workers: that it was launched with; 0: none ever was.
        group_size: of each of its groups.
        run: its number in the box.
    """

    def __init__(self, box: Box, job: str) -> None:
        self.job = job
        self._box = box
        self._alive = Roster(box, _WORKERS).alive()
        self.goes_on = bool(self._alive)
        record = box.value(_RECORD).get() or {}
        self.workers = int(record.get("world_size", 0))
        self.group_size = int(record.get("group_size", 1))
        self.run = int(record.get("run", 0))

    def joined(self) -> list[Joined]:
        """Return the workers that have joined it since its launch, by rank."""
        ranks = range(self.workers, self.workers + joined_workers(self._box))
        places = {rank: self._box.value(f"{_PLACES}/{rank}").get() or [0, ""] for rank in ranks}
        return [
            Joined(rank, host, str(rank) in self._alive, str(self._box.value(f"{_ENDED}/{rank}").get() or ""))
            for rank, (run, host) in places.items()
            if run == self.run
        ]


@dataclass(frozen=True, slots=True)
class Joined:
    """A worker that has joined a job after its launch."""

    rank: int
    host: str
    alive: bool
    """Whether it takes part still."""
    end: str
    """How it has ended, as its launcher says; empty: it has not said."""


def check_joins(running: Running, group_size: int) -> None:
    """Check that workers in groups of this size can join a job.

    Args:
        running: the job.
        group_size: of the workers that come.

    Raises:
        ModumError: no job runs; the message says what to type.
        MismatchError: its groups have another size.
    """
    if not running.goes_on:
        called = f"called {running.job!r}" if running.job else "without a name"
        raise ModumError(
            f"no job {called} runs in this box: it has ended, or has not begun\n"
            "HINT: begin one with modum run --box HOST:PORT train.py; one that has a name is joined by it: "
            "modum join HOST:PORT --name NAME train.py"
        )
    if group_size != running.group_size:
        raise MismatchError(f"groups of {group_size} cannot join a job whose groups have {running.group_size} workers")


def note_ended(box: Box, rank: int, end: str) -> None:
    """Tell the workers that one of them has ended, even if it never came; called by their launcher.

    Args:
        box: the job's.
        rank: of the worker that has ended.
        end: how.
    """
    box.value(f"{_ENDED}/{rank}").set(end)


def clear_places(box: Box, ranks: Iterable[int]) -> None:
    """Forget which workers of an earlier run have come, and which have ended."""
    for rank in ranks:
        box.value(f"{_PLACES}/{rank}").delete()
        box.value(f"{_ENDED}/{rank}").delete()


def connected(box: Box, ranks: Iterable[int]) -> list[int]:
    """Return those of `ranks` that have registered since `clear_places`."""
    return [rank for rank in ranks if box.value(f"{_PLACES}/{rank}").get() is not None]


def host_name() -> str:
    """Return this host's name for people."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def check_free(box: Box, job: str, say: Callable[[str], None]) -> None:
    """Check that no worker is in `box`; workers that were stopped a moment ago may be there for the servers' grace.

    Args:
        box: the box, in the namespace of the job to start.
        job: name of that namespace.
        say: is told of the wait, if there is one.

    Raises:
        MismatchError: workers are there, and have stayed.
    """
    roster = Roster(box, _WORKERS)
    if not (there := len(roster.alive())):
        return
    who = f"{count(there, 'worker')} of a job {f'called {job!r}' if job else 'without a name'}"
    say(f"{who} in this box: waiting up to {_STOPPED_SECONDS:g} s, in case they were just stopped")
    roster.wait_until_gone(
        timeout=_STOPPED_SECONDS, error=lambda _: MismatchError(f"{who} use this box now\n{_hint(job)}")
    )


def _hint(job: str) -> str:
    other = "another" if job else "a"
    return (
        f"HINT: give this job {other} name: modum run --name second, or MODUM_JOB=second for every worker; or, if this "
        "is another machine of the same job, end it there, and start it on both with modum run --hosts 2"
    )
