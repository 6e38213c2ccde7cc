"""The seam between Modum and whatever started the workers: how a process learns its place in the job."""

import os
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Self, TypedDict

from modum.cluster import credentials

if TYPE_CHECKING:
    from modum.cluster.rendezvous import Rendezvous

__all__ = [
    "ClusterEnvironment",
    "check_group_size",
    "check_job",
    "check_place",
    "common_variables",
    "host_group",
    "integer_variable",
]

_JOB = re.compile(r"[A-Za-z0-9._-]{0,64}")


@dataclass(frozen=True, kw_only=True)
class ClusterEnvironment(ABC):
    """This process's place among the workers of the job, as its launcher left word of it.

    A new launcher is one subclass, in a file of its own, and one entry in
    `modum.cluster.detection.ENVIRONMENTS`.

    Consecutive ranks make a group: the ranks `0 .. group_size - 1` are group 0, and so on. Raises
    `ValueError` where the numbers cannot be a job's, so that a wrong start ends at once and not in a
    collective that hangs.
    """

    name: ClassVar[str]
    """What a person would say started the process."""
    meets: ClassVar[bool] = False
    """Whether the workers can tell each other what they need before there is a box: see `meeting`."""

    rank: int
    world_size: int
    local_rank: int
    group_size: int = 1
    group_is_host: bool = False
    """Whether the group size is the number of workers of this host because nobody said otherwise."""
    box_servers: tuple[str, ...] = ()
    """Addresses (`host:port`) of the memory servers, in the box's order; empty if the launcher named none."""
    token: str | None = field(default=None, repr=False)
    job: str = ""
    """What the job is called in a box that others use too."""

    @classmethod
    @abstractmethod
    def detect(cls) -> bool:
        """Whether this launcher started the process; looks only, and raises nothing."""

    @classmethod
    @abstractmethod
    def read(cls) -> Self:
        """The place of this process; `ValueError` with a hint if the launcher's word is incomplete."""

    def meeting(self, seconds: float) -> "Rendezvous":
        """Come together with all other workers, by the launcher's own means; only where `meets` is true.

        `seconds` is how long the first worker waits for the last one, each time. Raises `ModumError` with a
        hint if there is no way to meet.
        """
        raise TypeError(f"workers of {self.name} are told all they need")

    def __post_init__(self) -> None:
        check_place(self.rank, self.world_size, self.local_rank)
        check_group_size(self.group_size, self.world_size, of_host=self.group_is_host)
        check_job(self.job)

    @property
    def group(self) -> int:
        """Index of this worker's group."""
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
    """Raise `ValueError` unless these can be a worker's numbers."""
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
    """Raise `ValueError` unless `world_size` workers make whole groups of `group_size`."""
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
    """Raise `ValueError` unless `job` can be the name of a job."""
    if not _JOB.fullmatch(job):
        raise ValueError(
            f"a job cannot be called {job!r}: names have up to 64 letters, digits, points, dashes and underscores\n"
            "HINT: modum run --name second, or MODUM_JOB=second"
        )


def host_group(local_world_size: int) -> "_Group":
    """The group size that MODUM_GROUP_SIZE gives, else the number of workers of this host."""
    if "MODUM_GROUP_SIZE" in os.environ:
        size = integer_variable("MODUM_GROUP_SIZE", "set it to the number of workers in a group")
        return {"group_size": size, "group_is_host": False}
    return {"group_size": local_world_size, "group_is_host": True}


def integer_variable(name: str, hint: str, default: int | None = None) -> int:
    """The environment variable `name` as an integer; `ValueError` if it is none, or is missing."""
    text = os.environ.get(name)
    if text is None:
        if default is None:
            raise ValueError(f"{name} is not set\nHINT: {hint}")
        return default
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{name}={text!r} is not an integer\nHINT: {hint}") from None


def common_variables() -> "_Common":
    """What every environment takes from MODUM_BOX, MODUM_TOKEN and MODUM_JOB."""
    servers = (server.strip() for server in os.environ.get("MODUM_BOX", "").split(","))
    return {
        "box_servers": tuple(server for server in servers if server),
        "token": credentials.token(),
        "job": os.environ.get("MODUM_JOB", ""),
    }


class _Common(TypedDict):
    box_servers: tuple[str, ...]
    token: str | None
    job: str


class _Group(TypedDict):
    group_size: int
    group_is_host: bool
