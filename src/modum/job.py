"""A worker's first line: its place in the job, and the box that it shares."""

import atexit
import contextlib
import os
import sys
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from modum.box import Box, Server, new_token
from modum.cluster import credentials
from modum.cluster.bootstrap import Bootstrap
from modum.cluster.detection import detect
from modum.cluster.environment import ClusterEnvironment
from modum.cluster.registration import Registration
from modum.cluster.single import Single
from modum.cluster.slurm import allotted_tasks
from modum.errors import ConnectionLostError, DeadlineError, ModumError
from modum.run.host_servers import HostServers

__all__ = ["Job", "connect"]

_MEET_SECONDS: Final = 120.0
"""How long the first worker waits for the last one, which may be long in starting and importing."""
_PAUSE: Final = 0.05
_QUIET_SECONDS: Final = 10.0


@dataclass(frozen=True, kw_only=True)
class Job:
    """One worker's view of the job; a context manager that leaves it.

    Consecutive ranks make a group: `group` is `rank // group_size`, `group_rank` is `rank % group_size`, and
    `groups` is `world_size // group_size`.
    """

    box: Box
    rank: int
    world_size: int
    local_rank: int
    group: int
    groups: int
    group_rank: int
    group_size: int
    _embedded: Server | None = field(default=None, repr=False)
    _carried: HostServers | None = field(default=None, repr=False)
    _roster: Registration | None = field(default=None, repr=False)
    _process: int = field(default_factory=os.getpid, repr=False)

    def close(self) -> None:
        """Leave the job: close the box, and the memory servers if `connect` started some here.

        A worker that runs memory servers for its host waits until the other workers have left too (or died), as
        they still need its memory. Closing twice does nothing; it is also done when the interpreter ends.
        """
        # a worker that ends by an error must not wait: the launcher is to see it, and stop the others
        self._leave(wait=not hasattr(sys, "last_value"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        failed = error is not None and not (isinstance(error, SystemExit) and not error.code)
        self._leave(wait=not failed)

    def _leave(self, *, wait: bool) -> None:
        if os.getpid() != self._process:
            return  # a forked child has no part in it
        atexit.unregister(self.close)
        try:
            if self._roster is not None and not self._roster.left:
                with contextlib.suppress(ModumError):  # a server of another host is gone: there is no box any more
                    self._roster.leave()
                    if wait and self._carried is not None:
                        self._wait_for_others(self._roster)
            self.box.close()
            if wait and self._carried is not None:
                self._carried.finish()  # workers of other hosts may be about to say goodbye still
        finally:
            if self._carried is not None:
                self._carried.close()
            if self._embedded is not None:
                self._embedded.close()

    def _wait_for_others(self, roster: Registration) -> None:
        tell = time.monotonic() + _QUIET_SECONDS
        while others := roster.others():
            if time.monotonic() > tell:
                tell = float("inf")
                ranks = ", ".join(map(str, others))
                _say(f"modum: rank {self.rank} is done; its memory servers stay for rank {ranks}")
            time.sleep(_PAUSE)


def connect(*, transport: str = "auto", timeout: float = 30.0) -> Job:
    """Join the job that this process was started for: by `modum run`, mpirun, torchrun, srun, or alone.

    Under `modum run` that is the launcher's box. Under the others a memory server is started on each host, by the
    first worker there, and lives as long as that worker; MODUM_BOX, MODUM_SERVERS, MODUM_MEMORY, MODUM_GROUP_SIZE,
    MODUM_INTERFACE and MODUM_JOB change that (docs/launching.md). All workers call this, and each returns once all
    have joined. A script that was started alone (`python train.py`) takes the box that MODUM_BOX names, or else
    starts a memory server in its own process: the same script runs all ways.

    `transport` is `"auto"`, `"local"`, `"rdma"` or `"tcp"`, and `timeout` is in seconds, both as in `Box.connect`.
    Raises `ValueError` if the environment of this process is incomplete or contradicts itself, `MismatchError`
    (a `ModumError`) if workers disagree, `DeadlineError` if some do not come within two minutes, and what
    `Box.connect` raises; nothing is left running then.
    """
    place = detect()
    if transport == "auto":
        transport = credentials.transport() or "auto"
    if not place.box_servers:
        if place.world_size == 1:
            return _alone(place, transport, timeout)
        if not place.meets:
            raise ValueError(
                f"rank {place.rank} of {place.world_size} was told no box: MODUM_BOX is not set\n"
                f"HINT: start the workers with `modum run -n {place.world_size} train.py`, or start a "
                "`modum server` and set MODUM_BOX=host:port and MODUM_TOKEN for every worker"
            )
    elif not place.meets or place.group_size == 1 or "MASTER_ADDR" in os.environ:
        box = _box(place, place.box_servers, place.token, transport, timeout)
        return _enter(place, box, None)
    with place.meeting(_MEET_SECONDS) as meeting, contextlib.ExitStack() as failing:
        assembly = Bootstrap(place, meeting)
        failing.callback(assembly.close)
        problem: Exception | None = None
        try:
            box = _box(place, assembly.servers, assembly.token, transport, timeout)
            job = _enter(place, box, assembly.carried)
            failing.callback(job._leave, wait=False)
        except (ConnectionLostError, DeadlineError) as error:
            problem = assembly.unreachable(error)
        except (ModumError, ValueError, OSError) as error:
            problem = error
        assembly.agree(problem)
        failing.pop_all()
    if place.rank == 0:
        _say(assembly.report())
    return job


def _alone(place: ClusterEnvironment, transport: str, timeout: float) -> Job:
    tasks = allotted_tasks()
    if tasks is not None and tasks > 1 and isinstance(place, Single):
        _say(
            f"modum: Slurm allotted {tasks} tasks, but srun did not start this process: it trains alone\n"
            f"HINT: srun -n {tasks} python {sys.argv[0]}"
        )
    token = new_token()
    server = Server(token=token).start()
    try:
        box = Box.connect(server.address, token=token, transport=transport, timeout=timeout, namespace=place.job)
    except BaseException:
        server.close()
        raise
    return _job(place, box, embedded=server)


def _box(place: ClusterEnvironment, servers: tuple[str, ...], token: str | None, transport: str, timeout: float) -> Box:
    return Box.connect(servers, token=token, transport=transport, timeout=timeout, namespace=place.job)


def _enter(place: ClusterEnvironment, box: Box, carried: HostServers | None) -> Job:
    """Check in, unless this is a script by itself: several of those may share a box, whose jobs they know."""
    try:
        roster = None if isinstance(place, Single) else Registration(box, place)
    except BaseException:
        box.close()
        raise
    return _job(place, box, carried=carried, roster=roster)


def _job(
    place: ClusterEnvironment,
    box: Box,
    *,
    embedded: Server | None = None,
    carried: HostServers | None = None,
    roster: Registration | None = None,
) -> Job:
    job = Job(
        box=box,
        rank=place.rank,
        world_size=place.world_size,
        local_rank=place.local_rank,
        group=place.group,
        groups=place.groups,
        group_rank=place.group_rank,
        group_size=place.group_size,
        _embedded=embedded,
        _carried=carried,
        _roster=roster,
    )
    atexit.register(job.close)
    return job


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
