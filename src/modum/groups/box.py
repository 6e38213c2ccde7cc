"""A group's agreements through the box, for threads on which the framework's collectives may not be called."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from modum.errors import BufferExistsError
from modum.groups.base import Group

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modum.box import Box, Buffer

SECONDS = 600.0
"""How long a member waits for the others, which may be compiling or evaluating; DeadlineError after that."""
MOST_VALUES = 8
"""Numbers that the members may agree on at a time."""


class BoxGroup(Group):
    """Members that leave numbers for each other in the box.

    The collectives of a framework must be called in the same order by all members, so a thread that loads data cannot
    call them while another one trains. These may be called beside them, each method from one thread at a time.

    name
        Of what is kept in the box; every group has its own. Several of one name are made in one order.
    """

    def __init__(self, box: Box, name: str, *, rank: int, size: int) -> None:
        self.rank = rank
        self.size = size
        name = f"{name}/{box.counter(f'{name}/made/{rank}').add(1)}"
        # two rows for each member, used in turn
        self._numbers = _open_or_create(box, name, (2 * size * MOST_VALUES,))
        self._said = _open_or_create(box, f"{name}/said", (1,))
        self._arrived = box.counter(f"{name}/arrived")
        self._spoken = box.counter(f"{name}/spoken")
        self._heard = box.counter(f"{name}/heard")
        self._round = 0
        self._told = 0

    def largest(self, values: Sequence[float]) -> tuple[float, ...]:
        assert len(values) <= MOST_VALUES, "more numbers than there is room for"
        if self.size == 1:
            return tuple(float(value) for value in values)
        # nobody overwrites a row before all have read it: they come to the round between only after that
        row = self._round % 2 * self.size * MOST_VALUES
        mine = np.array(values, np.float64).view(np.int64)
        self._numbers.write(mine, offset=row + self.rank * MOST_VALUES)
        self._round += 1
        self._arrived.add(1)
        self._arrived.wait(self._round * self.size, SECONDS)
        rows = self._numbers.read(offset=row, count=self.size * MOST_VALUES).view(np.float64)
        largest = rows.reshape(self.size, MOST_VALUES)[:, : len(values)].max(axis=0)
        return tuple(largest.tolist())

    def broadcast(self, value: int) -> int:
        if self.size == 1:
            return value
        self._told += 1
        if self.rank == 0:
            self._heard.wait((self._told - 1) * (self.size - 1), SECONDS)
            self._said.write(np.array([value], np.int64))
            self._spoken.add(1)
            return value
        self._spoken.wait(self._told, SECONDS)
        (heard,) = self._said.read(count=1)
        self._heard.add(1)
        return int(heard)

    def close(self) -> None:
        self._numbers.close()
        self._said.close()


def _open_or_create(box: Box, name: str, shape: tuple[int, ...]) -> Buffer:
    try:
        return box.create(name, shape, "int64")
    except BufferExistsError:
        return box.open(name)
