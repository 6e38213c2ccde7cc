"""The settings of `modum run`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from modum.box import SnapshotSettings
from modum.box.server.process import check_servers
from modum.box.server.replication.ring import FEWEST
from modum.box.sockets import parse_address
from modum.cluster.environment import check_group_size, check_job
from modum.cluster.preemption import DEFAULT_GRACE

__all__ = ["RunConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """One job on this machine, or this machine's part of one.

    Raises:
        ValueError: the job cannot be run; the message has a hint.
    """

    command: tuple[str, ...]
    """The arguments of `python`: a script, or `-m` and a module, and its arguments."""
    workers: int = 1
    group_size: int = 1
    """Workers in a group; consecutive ranks. Must divide `workers`."""
    servers: int = 1
    """Memory servers to start, unless `box` names some that run."""
    memory: int = 8 * 2**30
    """Bytes that each of these servers may hold."""
    replicas: int = 1
    """Of these servers, how many have what is acknowledged; with 2, any one of them may be lost."""
    snapshots: SnapshotSettings | None = None
    """Where each of these servers has a folder of its own for snapshots, and when it writes them."""
    restore: Path | None = None
    """The folder of `snapshots` of an earlier run, with whose memory this one begins."""
    encrypt: bool = False
    """Whether each of these servers takes only encrypted connections from other hosts."""
    resume: SnapshotSettings | None = None
    """Where checkpoints of the whole job are, with the newest of which it begins, and when new ones are taken."""
    threads: int | None = None
    """Compute threads of each worker; None leaves it to OMP_NUM_THREADS, or 1 if that is not set."""
    on_failure: Literal["stop", "continue"] = "stop"
    timeout: float | None = None
    """Seconds from which all waits of the workers follow; None leaves it to MODUM_TIMEOUT, or 30."""
    grace: float = DEFAULT_GRACE
    """Seconds from SIGTERM, to this launcher or to a worker, to SIGKILL."""
    box: tuple[str, ...] = ()
    """Addresses (`host:port`) of memory servers that run already."""
    token: str | None = field(default=None, repr=False)
    """The token of the box; None: one that the launcher starts gets a new one."""
    joins: bool = False
    """Whether the workers join a job that runs in `box`; the size of its groups counts, and not `group_size`."""
    hosts: int = 1
    """Hosts that take part, each with a launcher of its own; several need a `box`."""
    name: str = ""
    """The job's name in a `box` that others use too; it prefixes everything that the job keeps there."""

    def __post_init__(self) -> None:
        for name in ("workers", "servers", "threads", "hosts"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise ValueError(f"{name} ({number}) must be at least 1")
        if self.timeout is not None and not self.timeout > 0:
            raise ValueError(f"timeout ({self.timeout:g} s) must be positive")
        if not self.grace > 0:
            raise ValueError(f"grace ({self.grace:g} s) must be positive")
        if self.hosts > 1 and not self.box:
            raise ValueError(
                f"{self.hosts} hosts need a box that all of them reach\n"
                "HINT: start `modum server --host ADDRESS` on one of them, with a MODUM_TOKEN; then on each host "
                f"modum run --box ADDRESS:7500 --hosts {self.hosts}"
            )
        if self.replicas not in (1, 2):
            raise ValueError(f"replicas ({self.replicas}) must be 1 or 2")
        if self.replicas > 1 and self.box:
            raise ValueError("replicas are those of servers that are started here, and a box is used that runs already")
        if self.replicas > 1 and self.servers < FEWEST:
            raise ValueError(
                f"replicas take at least {FEWEST} memory servers, not {self.servers}: a majority must be left when one"
                f" is lost\nHINT: --servers {FEWEST}"
            )
        if self.replicas > 1 and (self.snapshots or self.restore or self.resume):
            raise ValueError(
                "servers with replicas write and restore no snapshots"
                "\nHINT: leave out --replicas, or --snapshot-dir, --restore and --resume"
            )
        if self.restore is not None:
            check_servers(self.restore, self.servers)
        check_group_size(self.group_size, self.workers)
        check_job(self.name)
        for address in self.box:
            parse_address(address)
