"""The flat layout of a model's tensors: where each lies in a vector, and which slice each group member moves."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from modum.box.kernels import FLOATING, STORAGE

ALIGNMENT: Final = 64
"""Bytes, a cache line: every tensor begins at a multiple of it, unless a vector asks for another."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpec:
    """The properties of a shared tensor that must be equal in all workers.

    Attributes:
        name: unique in the model.
        shape: extents; () for a single number.
        dtype: "float32" or "bfloat16"; see `check_specs`.
        trainable: whether gradients move it. A tensor that they do not move (the running mean and variance of a batch
            normalization) is a *statistic*.
        note: what else distinguishes two tensors, such as an unusual order in memory.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    trainable: bool
    note: str = ""

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def text(self) -> str:
        """The tensor in words, for the comparison of workers."""
        note = f" {self.note}" if self.note else ""
        return f"{self.dtype} {self.shape}{note}" + ("" if self.trainable else " statistic")


def check_specs(specs: Sequence[TensorSpec], hint: str) -> None:
    """Check that something is trainable and that the box can hold every tensor.

    Args:
        specs: the tensors to share.
        hint: what a user of the front end should type to change the dtype.

    Raises:
        ValueError: nothing is trainable, or a dtype is neither float32 nor bfloat16.
    """
    if not any(spec.trainable for spec in specs):
        raise ValueError("nothing is trainable: there is nothing to share")
    for spec in specs:
        if spec.dtype not in FLOATING:
            raise ValueError(f"{spec.name} is {spec.dtype}, but only float32 and bfloat16 can be shared: {hint}")


def unique_names(names: Sequence[str]) -> list[str]:
    """Return the names with "#2" after the second of the same name, "#3" after the third, and so on."""
    counts: dict[str, int] = {}
    found = []
    for name in names:
        counts[name] = counts.get(name, 0) + 1
        found.append(name if counts[name] == 1 else f"{name}#{counts[name]}")
    return found


class FlatLayout:
    """The places of tensors of one dtype in a vector: trainable ones first, then statistics.

    Offsets and sizes are in elements. A group divides the vector: member i moves the elements
    [`bounds[i]`, `bounds[i + 1]`), and the members' slices together are the whole vector.

    Args:
        specs: the tensors, at least one, all of one dtype.
        members: number of workers in the group.
        rank: this worker's number in its group.
        alignment: bytes; every tensor and every slice begins at a multiple of it.

    Attributes:
        order: for each place in the vector, the index of the given tensor that lies there.
        specs: the tensors in the order of the vector.
        starts: where each of them begins.
        size: elements of the vector, padding included.
        trainable: how many elements come before the statistics.
        bounds: where the slice of each member begins, and the end of the last.
        offset: where this member's slice begins.
        own: length of that slice.
    """

    def __init__(
        self, specs: Sequence[TensorSpec], *, members: int = 1, rank: int = 0, alignment: int = ALIGNMENT
    ) -> None:
        assert len({spec.dtype for spec in specs}) == 1, "a vector has one dtype"
        self.dtype = specs[0].dtype
        self.step = max(1, alignment // STORAGE[self.dtype].itemsize)
        self.order = tuple(sorted(range(len(specs)), key=lambda index: not specs[index].trainable))
        self.specs = tuple(specs[index] for index in self.order)
        starts: list[int] = []
        end = self.trainable = 0
        for spec in self.specs:
            starts.append(end)
            end += self._whole(spec.size)
            self.trainable = end if spec.trainable else self.trainable
        self.starts = tuple(starts)
        self.size = max(end, self.step)
        self.share = self._whole(-(-self.size // members))
        """Elements of each member's slice, except the last ones."""
        self.bounds = tuple(min(member * self.share, self.size) for member in range(members + 1))
        self.offset = self.bounds[rank]
        self.own = self.bounds[rank + 1] - self.offset

    def _whole(self, elements: int) -> int:
        return -(-elements // self.step) * self.step

    def described(self) -> list[list[str]]:
        """Return the name and text of every tensor, for workers to compare."""
        return [[spec.name, spec.text] for spec in self.specs]
