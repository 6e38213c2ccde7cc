"""A group of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modum.groups.base import Group

if TYPE_CHECKING:
    from collections.abc import Sequence


class Alone(Group):
    """A group of one: nothing to agree on."""

    rank = 0
    size = 1

    def largest(self, values: Sequence[float]) -> tuple[float, ...]:
        return tuple(float(value) for value in values)

    def broadcast(self, value: int) -> int:
        return value
