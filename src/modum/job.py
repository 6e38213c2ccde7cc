"""A worker's one handle: its place in the job, and the box that all workers share."""

import atexit
import contextlib
import logging
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Literal, Self

from modum.box import Box, Server, new_token
from modum.box.server.process import ServerProcesses
from modum.checkpoints.worker import Checkpoints
from modum.cluster import ClusterEnvironment, credentials, detect
from modum.cluster.bootstrap import Bootstrap
from modum.cluster.checkpoints import checkpoints_of_environment
from modum.cluster.environment import check_group_size, check_place, timeouts_of
from modum.cluster.interfaces import interface_to_box
from modum.cluster.members import absent
from modum.cluster.modum_run import ModumRun
from modum.cluster.preemption import Preemption
from modum.cluster.registration import Registration
from modum.cluster.torch_variables import replace_torch_variables, torch_variables
from modum.coordination.control import Control
from modum.coordination.rendezvous import Rendezvous
from modum.errors import ConnectionLostError, DeadlineError, ModumError, SnapshotError
from modum.observe.progress import WorkerProgress
from modum.waiting import Timeouts

__all__ = ["GroupPlace", "Job", "connect"]

_log = logging.getLogger("modum")

_QUIET_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class GroupPlace:
    """A worker's place among the groups of the job: consecutive ranks make a group."""

    index: int
    """Number of the group, from 0."""
    size: int
    """Workers in a group."""
    rank: int
    """Number of this worker in its group, from 0; member 0 is the leader."""


class Job:
    """A worker's place in its job and the box that it shares; a context manager that leaves the job.

    `modum.connect` makes it. Front ends see nothing else of the cluster. A test, or a program that finds its
    place by other means, can make one from a box: `Job(box)` is a job of one worker.

    Args:
        box: the memory that all workers share; closed with the job.
        rank: number of this worker, from 0.
        world_size: number of workers.
        local_rank: number of this worker on its host, from 0.
        group_size: workers in a group; divides `world_size`.
        address: where the other workers reach this one's host.
        interface: network interface that has this address, where a collective library needs it; else empty.
        attempt: distinguishes one start of the job from the next one in a box that outlives them.
        preemption: tells when this worker is asked to leave; None: nobody asks it.
        checkpoints: this worker's part in those of the job; None: there are none.
        timeouts: how long this worker waits for what, where nothing else is said; None: the usual ones.
        launched: workers that the job was launched with, if this one has joined later; None: all.

    Raises:
        ValueError: the numbers contradict each other.
    """

    def __init__(
        self,
        box: Box,
        *,
        rank: int = 0,
        world_size: int = 1,
        local_rank: int = 0,
        group_size: int = 1,
        address: str = "127.0.0.1",
        interface: str = "",
        attempt: str = "0",
        preemption: Preemption | None = None,
        checkpoints: Checkpoints | None = None,
        timeouts: Timeouts | None = None,
        launched: int | None = None,
    ) -> None:
        check_place(rank, world_size, local_rank)
        check_group_size(group_size, world_size)
        self.box = box
        self.rank = rank
        self.world_size = world_size
        self.launched = world_size if launched is None else launched
        """Workers that the job was launched with: fewer than `world_size` in one that joined it later."""
        self.local_rank = local_rank
        self.group = GroupPlace(rank // group_size, group_size, rank % group_size)
        self.groups = world_size // group_size
        """Number of groups in the job."""
        self.address = address
        self.interface = interface
        self.attempt = attempt
        self.counts: Counter[str] = Counter()
        """How often this worker has done what is numbered, by name: the n-th time of all workers is one thing."""
        self.checkpoints = checkpoints or Checkpoints(box, rank)
        """What front ends add this worker's state to, for `modum run --resume`."""
        self.timeouts = timeouts or Timeouts()
        self._preemption = preemption or Preemption()
        self._progress: WorkerProgress | None = None
        self._mutex = threading.Lock()
        self._closed = False

    def __repr__(self) -> str:
        return f"Job(rank {self.rank} of {self.world_size}, groups of {self.group.size}, {self.box!r})"

    @property
    def stopping(self) -> bool:
        """Whether this worker was asked by SIGTERM to leave, and is killed when its grace is over.

        The front ends' own loops end then. In a group, its members may see this at different steps: break a loop of
        your own there by the averager's `leaving`.
        """
        return self._preemption.stopping

    @property
    def patience(self) -> float | None:
        """Seconds that a worker that leaves waits for the others; None where they stay, or nobody leaves."""
        return self._preemption.patience

    def report(
        self,
        *,
        samples: int = 0,
        steps: int = 0,
        total: int | None = None,
        loss: float | None = None,
        exchange_seconds: float = 0.0,
        hidden_seconds: float = 0.0,
        finished: int | None = None,
    ) -> None:
        """Report what this worker has done since its last report, for `modum status`, without waiting for the network.

        Args:
            samples: samples that this worker trained on.
            steps: steps that this worker took.
            total: samples of the whole job, as known now.
            loss: the newest loss.
            exchange_seconds: seconds of one exchange; 0: there was none.
            hidden_seconds: how much of that was hidden under compute.
            finished: samples of the whole job that are known to be done, whoever did them.

        Raises:
            ModumError: what writing an earlier report raised.
        """
        self._reports().report(
            samples=samples,
            steps=steps,
            total=total,
            loss=loss,
            exchange_seconds=exchange_seconds,
            hidden_seconds=hidden_seconds,
            finished=finished,
        )

    def rendezvous(
        self, name: str, *, members: Literal["job", "group"] = "job", timeout: float | None = None
    ) -> Rendezvous:
        """Return a place where all workers of the job, or of this worker's group, exchange small values.

        All of them must call this, with the same name.

        Args:
            name: the place's name.
            members: who meets.
            timeout: seconds that the first one waits for the last one, in each round; None: as `timeouts` say.

        Returns:
            The place, with a rank for each worker.

        Raises:
            ModumError: the whole job is to meet, and this worker has joined it later: the others do not know of it.
        """
        if members == "job":
            if self.rank >= self.launched:
                raise ModumError(
                    f"rank {self.rank} has joined the job later, and the {self.launched} workers that it was launched "
                    f"with meet at {name!r} without it\n"
                    "HINT: leave rendezvous of the whole job out where job.rank >= job.launched"
                )
            where, rank, size = "job", self.rank, self.world_size
        else:
            where, rank, size = f"group {self.group.index}", self.group.rank, self.group.size
        return Rendezvous(
            self.box,
            f"modum/rendezvous/{self.attempt}/{where}/{name}",
            rank=rank,
            size=size,
            timeout=self.timeouts.meet if timeout is None else timeout,
        )

    def control(self, training: str) -> Control:
        """Return what the workers of a training decide for all of them: to stop, and the learning rate.

        Args:
            training: its name: in a loop of one's own, that of the shared model ("model" by default).

        Returns:
            The same values for all workers that give this name, in this run of the job.
        """
        return Control(self.box, f"modum/control/{self.attempt}/{training}")

    def awaited(self, ranks: Iterable[int]) -> dict[int, str]:
        """Return those of some workers that are in the job, or are to come: not those that have left it, or died.

        Args:
            ranks: of the workers.

        Returns:
            The host of each; empty for one that has not connected yet. Only a job that `connect` joined knows any.
        """
        return {}

    def absent_members(self) -> str:
        """Say which members of this worker's group are missing; called by members whose collective has failed.

        Returns:
            Their ranks, hosts and last steps; empty if all others have failed in the same way.
        """
        first = self.rank - self.group.rank
        name = f"modum/absent/{self.attempt}/{self.group.index}"
        with contextlib.suppress(ModumError):
            self.flush()
        return absent(self.box, name, self.rank, range(first, first + self.group.size), self.awaited)

    def flush(self) -> None:
        """Write all pending reports into the box, and wait until they are there."""
        if self._progress is not None:
            self._progress.flush()

    def snapshot(self, *, timeout: float = 600.0) -> tuple[str, ...]:
        """Have the memory servers write what all workers share to their disks now; one worker's call is enough.

        Args:
            timeout: seconds to wait for it.

        Returns:
            The folder of each server's snapshot, on its machine: `modum run --restore` takes the folder above.

        Raises:
            SnapshotError: a server has no folder for snapshots, or could not write: the message says which and why. Or
                `modum run --resume` writes them, with the states of all workers.
            DeadlineError: it took longer; it may be written all the same.
        """
        if self.checkpoints.on:
            raise SnapshotError(
                "under modum run --resume snapshots are written with the states of all workers, and this one would have"
                " none\nHINT: leave out job.snapshot(), and say --snapshot-every"
            )
        self.flush()
        return self.box.snapshot(timeout=timeout)

    def close(self) -> None:
        """Write the last report and close the box; closing twice does nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._progress is not None:
                with contextlib.suppress(ModumError, ValueError):  # the box may be gone, or already closed
                    self._progress.close()
            self.checkpoints.close()
        finally:
            self.box.close()

    def _reports(self) -> WorkerProgress:
        with self._mutex:
            if self._progress is None:
                self._progress = WorkerProgress(self.box, self.rank, self.launched)
            return self._progress

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class _LaunchedJob(Job):
    """A job that `connect` joined, with this process's memory servers and its entry among the job's workers."""

    def __init__(
        self,
        place: ClusterEnvironment,
        box: Box,
        *,
        address: str = "127.0.0.1",
        interface: str = "",
        embedded: Server | None = None,
        hosted: ServerProcesses | None = None,
        registration: Registration | None = None,
        master: tuple[str, int] | None = None,
        preemption: Preemption | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        super().__init__(
            box,
            rank=place.rank,
            world_size=place.world_size,
            local_rank=place.local_rank,
            group_size=place.group_size,
            address=address,
            interface=interface,
            attempt=f"{0 if registration is None else registration.run}.{place.attempt}",
            preemption=preemption,
            checkpoints=checkpoints_of_environment(box, place.rank),
            timeouts=timeouts,
            launched=place.launched,
        )
        self._embedded = embedded
        self._hosted = hosted
        self._registration = registration
        self._process = os.getpid()
        self._torch = contextlib.ExitStack()
        if place.world_size > 1 and not isinstance(place, ModumRun):  # which has set them itself
            self._torch.callback(replace_torch_variables(torch_variables(place, master)))
        atexit.register(self.close)
        self._preemption.install()

    def close(self) -> None:
        """Leave the job: close the box, and the memory servers if `connect` started some here.

        A worker that runs memory servers for its host waits until the other workers have left too (or died), as
        they still need its memory. Closing twice does nothing; it is also done when the interpreter ends.
        """
        # a worker that ends by an error must not wait: the launcher must see it, and stop the others
        self.leave(wait=not hasattr(sys, "last_value"))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        failed = error is not None and not (isinstance(error, SystemExit) and not error.code)
        if isinstance(error, ModumError):
            _log.debug("left by an error", exc_info=error)
            _end_at_our_frames(traceback)
        self.leave(wait=not failed)

    def awaited(self, ranks: Iterable[int]) -> dict[int, str]:
        return {} if self._registration is None else self._registration.awaited(ranks)

    def leave(self, *, wait: bool) -> None:
        """Leave as `close` does; without `wait`, without waiting for anybody."""
        if os.getpid() != self._process:
            return  # a forked child has no part in it
        atexit.unregister(self.close)
        try:
            if self._registration is not None and not self._closed:
                with contextlib.suppress(ModumError):  # a server of another host is gone: there is no box any more
                    self.flush()
                    self._registration.leave()
                    if wait and self._hosted is not None:
                        self._wait_for_others(self._registration)
            super().close()
            if wait and self._hosted is not None:
                self._hosted.finish()  # workers of other hosts may still be about to say goodbye
        finally:
            self._preemption.close()
            self._torch.close()
            if self._hosted is not None:
                self._hosted.close()
            if self._embedded is not None:
                self._embedded.close()

    def _wait_for_others(self, registration: Registration) -> None:
        try:
            registration.wait_for_others(_QUIET_SECONDS)
        except DeadlineError:
            ranks = ", ".join(map(str, registration.others()))
            _say(f"modum: rank {self.rank} is done; its memory servers stay for rank {ranks}")
            registration.wait_for_others(None)


def connect(*, transport: str = "auto", timeout: float | None = None) -> Job:
    """Join the job for which `modum run`, mpirun, torchrun or srun started this process, or train alone.

    Under `modum run` the job uses the launcher's box. Under the others the first worker of each host starts a memory
    server there, which ends with that worker; MODUM_BOX, MODUM_SERVERS, MODUM_MEMORY, MODUM_GROUP_SIZE,
    MODUM_INTERFACE and MODUM_JOB change that (docs/how-to/launching.md). All workers call this; it returns once all
    have joined. A script started alone (`python train.py`) uses the box that MODUM_BOX names, or else starts a
    memory server in its own process, so the same script runs every way.

    Until the job is closed, `RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `MASTER_ADDR` and `MASTER_PORT` in this process's
    environment are those of this worker's group: trainers that read them would else make one DistributedDataParallel of
    all workers. In a group of one, and where the workers do not meet before the box, they are not set.

    Until the job is closed, SIGTERM asks this worker to leave (`Job.stopping`), if this is called in the main thread
    and the signal is not ignored. A Python handler that is there already is called as well; one that is installed later
    takes the place of Modum's.

    Args:
        transport: `"auto"`, `"local"`, `"rdma"` or `"tcp"`, as in `Box.connect`; `"auto"` follows MODUM_TRANSPORT.
        timeout: seconds to reach the memory servers, as in `Box.connect`; other waits of the job are multiples of it
            (`Job.timeouts`). None: MODUM_TIMEOUT, or 30.

    Returns:
        The job.

    Raises:
        ValueError: the environment of this process is incomplete or contradicts itself.
        MismatchError: workers disagree.
        DeadlineError: some workers do not come within four times `timeout`.
        ConnectionLostError: a memory server cannot be reached. `Box.connect` may raise other errors too. After any of
            these errors nothing is left running.
    """
    place = detect()
    preemption, timeouts = Preemption.of_environment(), timeouts_of(timeout)
    if transport == "auto":
        transport = credentials.transport() or "auto"
    if not place.box_servers:
        if place.world_size == 1:
            return _alone(place, transport, timeouts, preemption)
        if not place.has_rendezvous:
            raise ValueError(
                f"rank {place.rank} of {place.world_size} was told no box: MODUM_BOX is not set\n"
                f"HINT: start the workers with `modum run -n {place.world_size} train.py`, or start a "
                "`modum server` and set MODUM_BOX=host:port and MODUM_TOKEN for every worker"
            )
    elif not place.has_rendezvous or place.group_size == 1 or "MASTER_ADDR" in os.environ:
        interface = interface_to_box(place.box_servers)
        box = _box(place, place.box_servers, place.token, transport, timeouts.connect)
        return _enter(place, box, preemption, timeouts, address=interface.address, interface=interface.name)
    with place.rendezvous(timeouts.meet) as rendezvous, contextlib.ExitStack() as failing:
        bootstrap = Bootstrap(place, rendezvous)
        failing.callback(bootstrap.close)
        problem: Exception | None = None
        try:
            box = _box(place, bootstrap.servers, bootstrap.token, transport, timeouts.connect)
            job = _enter(
                place,
                box,
                preemption,
                timeouts,
                address=bootstrap.address,
                interface=bootstrap.interface,
                hosted=bootstrap.hosted,
                master=bootstrap.master,
            )
            failing.callback(job.leave, wait=False)
        except (ConnectionLostError, DeadlineError) as error:
            problem = bootstrap.unreachable(error)
        except (ModumError, ValueError, OSError) as error:
            problem = error
        bootstrap.agree(problem)
        failing.pop_all()
    if place.rank == 0:
        _say(bootstrap.report())
    return job


def _alone(place: ClusterEnvironment, transport: str, timeouts: Timeouts, preemption: Preemption) -> Job:
    if note := place.note():
        _say(note)
    token = new_token()
    server = Server(token=token).start()
    try:
        box = Box.connect(
            server.address, token=token, transport=transport, timeout=timeouts.connect, namespace=place.job
        )
    except BaseException:
        server.close()
        raise
    return _LaunchedJob(place, box, embedded=server, preemption=preemption, timeouts=timeouts)


def _box(place: ClusterEnvironment, servers: tuple[str, ...], token: str | None, transport: str, timeout: float) -> Box:
    return Box.connect(servers, token=token, transport=transport, timeout=timeout, namespace=place.job)


def _enter(
    place: ClusterEnvironment,
    box: Box,
    preemption: Preemption,
    timeouts: Timeouts,
    *,
    address: str,
    interface: str,
    hosted: ServerProcesses | None = None,
    master: tuple[str, int] | None = None,
) -> _LaunchedJob:
    try:
        registration = Registration(box, place) if place.checks_in else None
    except BaseException:
        box.close()
        raise
    return _LaunchedJob(
        place,
        box,
        address=address,
        interface=interface,
        hosted=hosted,
        registration=registration,
        master=master,
        preemption=preemption,
        timeouts=timeouts,
    )


def _end_at_our_frames(traceback: TracebackType | None) -> None:
    """Cut from a traceback what is below the user's line: an error that Modum raises on purpose says the rest."""
    while traceback is not None:
        below = traceback.tb_next
        if below is not None and below.tb_frame.f_globals.get("__name__", "").partition(".")[0] == "modum":
            traceback.tb_next = below = None
        traceback = below


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
