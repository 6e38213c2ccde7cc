"""The seam between Modum and launchers: how a process learns its place in the job."""

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Final, Self, TypedDict

from modum.cluster import credentials
from modum.units import parse_seconds
from modum.waiting import Timeouts

if TYPE_CHECKING:
    from modum.cluster.rendezvous import LauncherRendezvous

__all__ = [
    "BOX_VARIABLE",
    "GROUP_VARIABLE",
    "HOST_VARIABLE",
    "JOB_VARIABLE",
    "TIMEOUT_VARIABLE",
    "ClusterEnvironment",
    "check_group_size",
    "check_job",
    "check_place",
    "common_variables",
    "host_group",
    "integer_variable",
    "timeouts_of",
    "workers_on_host",
]

BOX_VARIABLE: Final = "MODUM_BOX"
JOB_VARIABLE: Final = "MODUM_JOB"
TIMEOUT_VARIABLE: Final = "MODUM_TIMEOUT"
GROUP_VARIABLE: Final = "MODUM_GROUP_SIZE"
HOST_VARIABLE: Final = "MODUM_LOCAL_WORLD_SIZE"
"""How many workers `modum run` has started on this host."""
_JOB: Final = re.compile(r"[A-Za-z0-9._-]{0,64}")


@dataclass(frozen=True, kw_only=True)
class ClusterEnvironment(ABC):
    """This process's place among the workers of the job, as its launcher set it.

    To add a launcher, write a subclass in a file of its own, and add it to `modum.cluster.detection.ENVIRONMENTS`;
    `modum.testing.check_environment` checks it.

    Consecutive ranks make a group: the ranks `0 .. group_size - 1` are group 0, and so on.

    Raises:
        ValueError: the numbers cannot be a job's: a wrong launch ends at once, not in a collective that hangs.
    """

    name: ClassVar[str]
    """The launcher's name for people."""
    has_rendezvous: ClassVar[bool] = False
    """Whether the workers can meet before there is a box: see `rendezvous`."""
    checks_in: ClassVar[bool] = True
    """Whether its workers are registered in the box, so that another job of the same name is refused."""

    rank: int
    world_size: int
    local_rank: int
    group_size: int = 1
    group_is_host: bool = False
    """Whether the group size is the number of workers of this host by default."""
    box_servers: tuple[str, ...] = ()
    """Addresses (`host:port`) of the memory servers, in the box's order; empty if the launcher named none."""
    token: str | None = field(default=None, repr=False)
    job: str = ""
    """The job's name in a box that others use too."""
    launched: int | None = None
    """Workers that the job was launched with, where this one joins it later; None: this is one of them."""
    attempt: int = 0
    """How often the launcher has started the workers before, if it restarts them after a failure."""

    @classmethod
    @abstractmethod
    def detect(cls) -> bool:
        """Return whether this launcher started the process; raises no errors."""

    @classmethod
    @abstractmethod
    def read(cls) -> Self:
        """Return the place of this process.

        Returns:
            The place.

        Raises:
            ValueError: the launcher's variables are incomplete or wrong; the message has a hint.
        """

    @abstractmethod
    def own_variables(self) -> dict[str, str]:
        """Return the launcher's own variables by which a process finds this place; see `variables`."""

    def variables(self) -> dict[str, str]:
        """Return the environment variables by which a process finds itself in this place: the inverse of `read`.

        They override what a child inherits; an empty one counts as not set.
        """
        common = {
            BOX_VARIABLE: ",".join(self.box_servers),
            credentials.TOKEN_VARIABLE: self.token or "",
            JOB_VARIABLE: self.job,
        }
        group = {} if self.group_is_host else {GROUP_VARIABLE: str(self.group_size)}
        return {**common, **group, **self.own_variables()}

    @classmethod
    def started(cls) -> int:
        """Return how many processes this launcher started, if it starts many; call it only after `detect`.

        Returns:
            Number of processes.

        Raises:
            ValueError: the launcher does not say.
        """
        return 1

    def check(self, outer: Sequence[type["ClusterEnvironment"]]) -> None:  # noqa: B027 - most have nothing to check
        """Check that this place does not contradict outer launchers, inside which this one may have run.

        Args:
            outer: the environments after this one in `ENVIRONMENTS` that detect themselves too.

        Raises:
            ValueError: it does; the message has a hint.
        """

    def note(self) -> str:
        """Return a note on this start for people, though it is no error; empty for most."""
        return ""

    def rendezvous(self, timeout: float) -> "LauncherRendezvous":
        """Meet all other workers, by the launcher's own means; only if `has_rendezvous` is true.

        Args:
            timeout: seconds that the first worker waits for the last one, each time.

        Returns:
            The place to meet, until it is closed.

        Raises:
            ModumError: there is no way to meet; the message has a hint.
        """
        raise TypeError(f"workers of {self.name} are told all they need")

    def __post_init__(self) -> None:
        check_place(self.rank, self.world_size, self.local_rank)
        check_group_size(self.group_size, self.world_size, of_host=self.group_is_host)
        check_job(self.job)

    @property
    def group(self) -> int:
        """Number of this worker's group, from 0."""
        return self.rank // self.group_size

    @property
    def groups(self) -> int:
        """Number of groups in the job."""
        return self.world_size // self.group_size

    @property
    def group_rank(self) -> int:
        """Rank of this worker inside its group."""
        return self.rank % self.group_size


def check_place(rank: int, world_size: int, local_rank: int) -> None:
    """Check a worker's numbers.

    Args:
        rank: number of the worker.
        world_size: number of workers.
        local_rank: number of the worker on its host.

    Raises:
        ValueError: they cannot be a worker's.
    """
    if world_size < 1:
        raise ValueError(f"world size ({world_size}) must be at least 1")
    if not 0 <= rank < world_size:
        raise ValueError(
            f"rank ({rank}) must be from 0 to world size - 1 ({world_size - 1})\n"
            "HINT: ranks count from 0, and WORLD_SIZE is the number of workers on all machines together"
        )
    if not 0 <= local_rank < world_size:
        raise ValueError(
            f"local rank ({local_rank}) must be from 0 to world size - 1 "
            f"({world_size - 1})\n"
            "HINT: LOCAL_RANK counts the workers of one machine from 0"
        )


def check_group_size(group_size: int, world_size: int, *, of_host: bool = False) -> None:
    """Check that the workers make whole groups.

    Args:
        group_size: workers in a group.
        world_size: number of workers.
        of_host: whether the group size is the number of workers of the host, for the message.

    Raises:
        ValueError: they do not.
    """
    if group_size < 1:
        raise ValueError(f"group size ({group_size}) must be at least 1")
    if world_size % group_size:
        fitting = ", ".join(str(size) for size in range(1, world_size + 1) if world_size % size == 0)
        default = ": the workers of this host are a group unless MODUM_GROUP_SIZE says otherwise" if of_host else ""
        raise ValueError(
            f"group size ({group_size}) must divide the number of workers ({world_size}){default}\n"
            f"HINT: with {world_size} workers the group size can be {fitting}"
            + (": export MODUM_GROUP_SIZE=1" if of_host else "")
        )


def check_job(job: str) -> None:
    """Check the name of a job.

    Args:
        job: the name.

    Raises:
        ValueError: it cannot be the name of a job.
    """
    if not _JOB.fullmatch(job):
        raise ValueError(
            f"a job cannot be called {job!r}: names have up to 64 letters, digits, points, dashes and underscores\n"
            "HINT: modum run --name second, or MODUM_JOB=second"
        )


def workers_on_host() -> int:
    """Return how many workers share this host, as `modum run` and torchrun set it; else 1."""
    return int(os.environ.get(HOST_VARIABLE) or os.environ.get("LOCAL_WORLD_SIZE", "1"))


def host_group(local_world_size: int) -> "_Group":
    """Return the group size that MODUM_GROUP_SIZE gives, else the number of workers of this host."""
    if GROUP_VARIABLE in os.environ:
        size = integer_variable(GROUP_VARIABLE, "set it to the number of workers in a group")
        return {"group_size": size, "group_is_host": False}
    return {"group_size": local_world_size, "group_is_host": True}


def integer_variable(name: str, hint: str, default: int | None = None) -> int:
    """Return the environment variable `name` as an integer.

    Args:
        name: the variable's name.
        hint: what to type, for the error.
        default: value for a missing variable; None: the variable must be set.

    Returns:
        Its value.

    Raises:
        ValueError: it is not an integer, or is missing and there is no `default`.
    """
    text = os.environ.get(name)
    if text is None:
        if default is None:
            raise ValueError(f"{name} is not set\nHINT: {hint}")
        return default
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{name}={text!r} is not an integer\nHINT: {hint}") from None


def timeouts_of(timeout: float | None) -> Timeouts:
    """Return the timeouts of a job: by `timeout`, in seconds, or if that is None by MODUM_TIMEOUT.

    Args:
        timeout: seconds to reach the memory servers.

    Returns:
        The timeouts.

    Raises:
        ValueError: it is not positive, or the variable is not a time.
    """
    if timeout is not None:
        return Timeouts(timeout)
    text = os.environ.get(TIMEOUT_VARIABLE)
    return Timeouts(parse_seconds(text)) if text else Timeouts()


def common_variables() -> "_Common":
    """Return the values that every environment takes from MODUM_BOX, MODUM_TOKEN and MODUM_JOB."""
    servers = (server.strip() for server in os.environ.get(BOX_VARIABLE, "").split(","))
    return {
        "box_servers": tuple(server for server in servers if server),
        "token": credentials.token(),
        "job": os.environ.get(JOB_VARIABLE, ""),
    }


class _Common(TypedDict):
    box_servers: tuple[str, ...]
    token: str | None
    job: str


class _Group(TypedDict):
    group_size: int
    group_is_host: bool
