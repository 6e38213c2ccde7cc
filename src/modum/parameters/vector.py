"""The seam to a front end's weights: one flat vector for each dtype."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from modum.box import Buffer


class Vector(ABC):
    """A worker's weights of one dtype as a flat vector, where the front end keeps them.

    A group shares the exchange out: member ``i`` moves the elements ``[bounds[i], bounds[i + 1])``, and the
    members' slices together are the whole vector. Trainable weights come first; behind them lie the
    *statistics*, which gradients do not move (the running mean and variance of a batch normalization).
    """

    dtype: str
    """The buffer's dtype: ``float32`` or ``bfloat16``."""
    size: int
    """Elements of the whole vector, padding included."""
    trainable: int
    """How many of them come before the statistics."""
    bounds: Sequence[int]
    """Where the slice of each member begins, and the end of the last."""
    offset: int
    """Where this member's slice begins."""
    staging: NDArray[np.generic]
    """This member's slice in host memory, 1-D: a snapshot on its way out, a correction on its way back."""

    @abstractmethod
    def check(self) -> None:
        """RuntimeError if the model no longer uses this vector: it was moved or cast meanwhile."""

    @abstractmethod
    def snapshot(self) -> None:
        """Copy this member's slice into `staging` (collective: statistics are averaged inside the group
        first).

        The copy may still be under way on return, or not even have begun; it is of this moment all the same.
        """

    @abstractmethod
    def arrived(self) -> None:
        """See to it that `staging` holds the last snapshot; called on the background thread."""

    @abstractmethod
    def subtract(self, rate: float) -> None:
        """Subtract the correction that is in `staging` of all members from the whole vector (collective).

        Statistics become ``S + rate (S_snapshot - S) - d``, that is ``(1 - rate) S + rate G``: a mixture, so
        that a variance never falls below zero, however far ``S`` has moved since the snapshot.
        """

    def subtract_and_snapshot(self, rate: float) -> None:
        """`subtract` and then `snapshot` (collective): in one pass over memory, where a front end can."""
        self.subtract(rate)
        self.snapshot()

    @abstractmethod
    def read(self, buffer: Buffer) -> None:
        """Take over the shared weights, this member alone."""

    @abstractmethod
    def write(self, buffer: Buffer) -> None:
        """Make these weights the shared ones."""

    @abstractmethod
    def align(self) -> None:
        """Take over the leader's vector, to the bit (collective)."""

    @abstractmethod
    def save(self) -> None:
        """Keep a copy of the vector until `restore`."""

    @abstractmethod
    def restore(self) -> None:
        """Bring the copy of `save` back and forget it."""


@contextmanager
def shared_weights(vectors: Sequence[Vector], buffers: Sequence[Buffer]) -> Iterator[None]:
    """The weights of ``vectors`` have what ``buffers`` hold inside, and their own values again afterwards."""
    for vector in vectors:
        vector.save()
    try:
        for vector, buffer in zip(vectors, buffers, strict=True):
            vector.read(buffer)
        yield
    finally:
        for vector in vectors:
            vector.restore()
