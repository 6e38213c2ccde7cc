"""A group of one."""

from collections.abc import Sequence
from typing import Any

from modum.groups.base import Group


class Alone(Group[Any]):
    """A group of one: nothing to agree on, and every collective returns what it was given."""

    rank = 0
    size = 1

    def largest(self, values: Sequence[float]) -> tuple[float, ...]:
        return tuple(float(value) for value in values)

    def broadcast(self, value: int) -> int:
        return value

    def average(
        self, arrays: Sequence[Any], like: Sequence[Any] | None = None, *, purpose: str = "average"
    ) -> list[Any]:
        return list(arrays)

    def align(self, arrays: Sequence[Any], *, purpose: str = "align") -> list[Any]:
        return list(arrays)

    def gather(self, part: Any, lengths: Sequence[int], *, purpose: str = "gather") -> Any:
        return part
