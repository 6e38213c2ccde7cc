"""The seam between Modum and whatever started the workers: how a process learns its place in the job."""

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Self

__all__ = ["ClusterEnvironment", "box_variables", "integer_variable"]


@dataclass(frozen=True, kw_only=True)
class ClusterEnvironment(ABC):
    """This process's place among the workers of the job, as its launcher left word of it.

    A new launcher is one subclass, in a file of its own, and one entry in
    `modum.launch.resolver.ENVIRONMENTS`.

    Consecutive ranks make a group: the ranks `0 .. group_size - 1` are group 0, and so on. Raises
    `ValueError` where the numbers cannot be a job's, so that a wrong start ends at once and not in a
    collective that hangs.
    """

    name: ClassVar[str]

    rank: int
    world_size: int
    local_rank: int
    group_size: int = 1
    box_servers: tuple[str, ...] = ()
    """Addresses (`host:port`) of the memory servers, in the box's order; empty if the launcher named none."""
    token: str | None = field(default=None, repr=False)

    @classmethod
    @abstractmethod
    def detect(cls) -> bool:
        """Whether this launcher started the process; looks only, and raises nothing."""

    @classmethod
    @abstractmethod
    def read(cls) -> Self:
        """The place of this process; `ValueError` with a hint if the launcher's word is incomplete."""

    def __post_init__(self) -> None:
        if self.world_size < 1:
            raise ValueError(f"world size ({self.world_size}) must be at least 1")
        if not 0 <= self.rank < self.world_size:
            raise ValueError(
                f"rank ({self.rank}) must be from 0 to world size - 1 ({self.world_size - 1})\n"
                "HINT: ranks count from 0, and WORLD_SIZE is the number of workers on all machines together"
            )
        if not 0 <= self.local_rank < self.world_size:
            raise ValueError(
                f"local rank ({self.local_rank}) must be from 0 to world size - 1 "
                f"({self.world_size - 1})\n"
                "HINT: LOCAL_RANK counts the workers of one machine from 0"
            )
        check_group_size(self.group_size, self.world_size)

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


def check_group_size(group_size: int, world_size: int) -> None:
    """Raise `ValueError` unless `world_size` workers make whole groups of `group_size`."""
    if group_size < 1:
        raise ValueError(f"group size ({group_size}) must be at least 1")
    if world_size % group_size:
        fitting = ", ".join(str(size) for size in range(1, world_size + 1) if world_size % size == 0)
        raise ValueError(
            f"group size ({group_size}) must divide the number of workers ({world_size})\n"
            f"HINT: with {world_size} workers the group size can be {fitting}"
        )


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


def box_variables() -> tuple[tuple[str, ...], str | None]:
    """The box's servers and the job's token, from MODUM_BOX and MODUM_TOKEN."""
    servers = (server.strip() for server in os.environ.get("MODUM_BOX", "").split(","))
    return tuple(server for server in servers if server), os.environ.get("MODUM_TOKEN") or None
