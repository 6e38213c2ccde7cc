"""A group that meets through the box, for threads on which a framework's collectives may not be called."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from modum.groups.base import Group

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modum.box import Box
    from modum.job import Job

Array = NDArray[Any]


class BoxGroup(Group[Array]):
    """A group whose members exchange numbers through the box.

    All members must call a framework's collectives in the same order, so a thread that loads data cannot
    call them while another one trains. These methods may be called at the same time, each from one thread at a time.

    Args:
        box: the members' box.
        name: prefix in the box, different for every group. All members make objects of the same name in the same order.
        rank: this member's number.
        size: number of members.
        timeout: seconds to wait for the others, which may be compiling or evaluating.
    """

    def __init__(self, box: Box, name: str, *, rank: int, size: int, timeout: float) -> None:
        self.rank = rank
        self.size = size
        self._box = box
        self._timeout = timeout
        self._name = f"{name}/{box.counter(f'{name}/made/{rank}').add(1)}"
        self._said = box.value(f"{self._name}/said")
        self._spoken = box.counter(f"{self._name}/spoken")
        self._heard = box.counter(f"{self._name}/heard")
        self._told = 0
        self._turns: dict[str, int] = {}

    @classmethod
    def of(cls, job: Job, name: str) -> BoxGroup:
        """Return this worker's group, as the job was launched."""
        where = f"modum/{name}/{job.attempt}/{job.group.index}"
        return cls(job.box, where, rank=job.group.rank, size=job.group.size, timeout=job.timeouts.step)

    def largest(self, values: Sequence[float]) -> tuple[float, ...]:
        rows = self._exchanged(np.array(values, np.float64), "largest")
        return tuple(np.max(rows, axis=0).tolist())

    def broadcast(self, value: int) -> int:
        if self.size == 1:
            return value
        self._told += 1
        if self.rank == 0:
            self._heard.wait((self._told - 1) * (self.size - 1), self._timeout)
            self._said.set(value)
            self._spoken.add(1)
            return value
        self._spoken.wait(self._told, self._timeout)
        heard = self._said.get()
        self._heard.add(1)
        return int(heard)

    def average(
        self, arrays: Sequence[Array | None], like: Sequence[Array] | None = None, *, purpose: str = "average"
    ) -> list[Array | None]:
        if self.size == 1 or not arrays:
            return list(arrays)
        if like is None and any(array is None for array in arrays):
            raise ValueError("an array is missing: give average(..., like=...), arrays of the same shapes")
        shapes = [array for array in (arrays if like is None else like) if array is not None]
        present = np.array([array is not None for array in arrays], np.float64)
        flat = [
            np.zeros(shape.size) if array is None else array.reshape(-1).astype(np.float64)
            for array, shape in zip(arrays, shapes, strict=True)
        ]
        rows = self._exchanged(np.concatenate([present, *flat]), purpose)
        anywhere: list[float] = rows[:, : len(arrays)].max(axis=0).tolist()
        sums = rows[:, len(arrays) :].sum(axis=0)
        starts = accumulate((shape.size for shape in shapes), initial=0)
        return [
            (sums[start : start + shape.size] / self.size).astype(shape.dtype).reshape(shape.shape) if there else None
            for there, start, shape in zip(anywhere, starts, shapes, strict=False)
        ]

    def align(self, arrays: Sequence[Array], *, purpose: str = "align") -> list[Array]:
        aligned = []
        for array in arrays:
            everybodys = self.gather(array.reshape(-1), [array.size] * self.size, purpose=purpose)
            aligned.append(everybodys[: array.size].reshape(array.shape))
        return aligned

    def gather(self, part: Array, lengths: Sequence[int], *, purpose: str = "gather") -> Array:
        if self.size == 1:
            return part
        words = -(-max(lengths) * part.itemsize // 8)
        own = np.zeros(words * 8, np.uint8)
        own[: part.nbytes] = np.ascontiguousarray(part).view(np.uint8)
        rows = self._exchanged(own.view(np.float64), purpose)
        parts = [
            np.ascontiguousarray(row).view(np.uint8)[: length * part.itemsize].view(part.dtype)
            for row, length in zip(rows, lengths, strict=True)
        ]
        return np.concatenate(parts)

    def _exchanged(self, row: NDArray[np.float64], purpose: str) -> NDArray[np.float64]:
        """Return the rows of all members, bit for bit: float64 passes as int64, which the box never rounds."""
        if self.size == 1:
            return row[None]
        name = f"{self._name}/{purpose}/{row.size}"
        turn = self._turns[name] = self._turns.get(name, -1) + 1
        # two sets of rows, used in turn: no member overwrites one before all have read it, as all come to the round
        # between only after that
        buffer = self._box.open_or_create(name, (2, self.size, max(1, row.size)), "int64")
        arrived = self._box.counter(f"{name}/arrived")
        try:
            first = turn % 2 * self.size * row.size
            buffer.write(row.view(np.int64), offset=first + self.rank * row.size)
            arrived.add(1)
            arrived.wait((turn + 1) * self.size, self._timeout)
            rows: NDArray[np.float64] = buffer.read(offset=first, count=self.size * row.size).view(np.float64)
            return rows.reshape(self.size, row.size)
        finally:
            buffer.close()
