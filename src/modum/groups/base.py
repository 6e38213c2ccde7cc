"""The seam to whatever a front end uses for collectives inside a group of workers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class Group(ABC):
    """Workers that step together. Every method is collective: all members call it, in the same order."""

    rank: int
    """This worker's number in the group, from 0; member 0 is the leader."""
    size: int

    @abstractmethod
    def largest(self, values: Sequence[float]) -> tuple[float, ...]:
        """The element-wise largest of all members' ``values``, which are equally many everywhere."""

    @abstractmethod
    def broadcast(self, value: int) -> int:
        """The leader's ``value`` (64 bit, signed)."""

    def close(self) -> None:  # noqa: B027 - most have nothing to let go of
        """Let go of what was made for this object; not collective."""
