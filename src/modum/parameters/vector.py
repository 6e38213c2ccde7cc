"""The seam to a front end's weights: one flat vector for each dtype."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from modum.errors import NotFiniteError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from modum.box import Buffer
    from modum.parameters.layout import FlatLayout

PIECE = 1 << 16
"""Elements that are looked at while they lie in the cache."""
EXPONENT = np.uint16(0x7F80)
"""The bits of bfloat16 that are all set in NaN and infinity."""


class Vector(ABC):
    """A worker's weights of one dtype as a flat vector, where the front end keeps them.

    Attributes:
        layout: where each tensor lies, and which slice this group member moves.
        staging: this member's slice in host memory, 1-D: a snapshot on its way out, a correction on its way back.
            bfloat16 is held as its bits, in uint16.
    """

    layout: FlatLayout
    staging: NDArray[np.generic]

    @property
    def dtype(self) -> str:
        """The buffer's dtype: "float32" or "bfloat16"."""
        return self.layout.dtype

    @property
    def size(self) -> int:
        """Elements of the whole vector, padding included."""
        return self.layout.size

    @property
    def trainable(self) -> int:
        """How many of them come before the statistics."""
        return self.layout.trainable

    @property
    def bounds(self) -> Sequence[int]:
        """Where the slice of each member begins, and the end of the last."""
        return self.layout.bounds

    @property
    def offset(self) -> int:
        """Where this member's slice begins."""
        return self.layout.offset

    @abstractmethod
    def check(self) -> None:
        """Raise RuntimeError if the model no longer uses this vector: it was moved or cast meanwhile."""

    @abstractmethod
    def snapshot(self) -> None:
        """Copy this member's slice into `staging` (collective: statistics are averaged inside the group first).

        On return the copy may still be under way, or not even have begun; it holds the weights of this moment anyway.
        """

    @abstractmethod
    def arrived(self) -> None:
        """Wait until `staging` holds the last snapshot; called on the background thread."""

    def nonfinite(self) -> str | None:
        """Return the name of a tensor in the last snapshot that has NaN or infinity; None: there is none.

        Called on the background thread.
        """
        self.arrived()
        if finite(self.staging):
            return None
        for spec, start in zip(self.layout.specs, self.layout.starts, strict=True):
            first = max(start - self.offset, 0)
            if not finite(self.staging[first : max(start + spec.size - self.offset, first)]):
                return spec.name
        return self.layout.specs[0].name  # in the padding

    @abstractmethod
    def subtract(self, rate: float) -> None:
        """Subtract the correction in the members' `staging` from the whole vector (collective).

        Statistics are mixed instead, see `mixed`.
        """

    def subtract_and_snapshot(self, rate: float) -> None:
        """Do `subtract` and then `snapshot` (collective), in one pass over memory where a front end can."""
        self.subtract(rate)
        self.snapshot()

    @abstractmethod
    def read(self, buffer: Buffer) -> None:
        """Take the shared weights, for this member alone."""

    @abstractmethod
    def whole(self) -> NDArray[Any]:
        """Return these weights, this member's alone, as `Buffer.write` takes them: 1-D, on the host; maybe a view."""

    def write(self, buffer: Buffer) -> None:
        """Make these weights the shared ones."""
        buffer.write(self.whole())

    def check_finite(self) -> None:
        """Raise NotFiniteError, with the name of a tensor, if these weights have NaN or infinity among them."""
        if not finite(whole := self.whole()):
            ends = [*self.layout.starts[1:], whole.size]
            spoiled = [
                spec.name
                for spec, start, end in zip(self.layout.specs, self.layout.starts, ends, strict=True)
                if not finite(whole[start:end])
            ]
            raise NotFiniteError(
                f"{', '.join(spoiled[:5])} of this worker has numbers that are not finite (NaN or infinity), and "
                "cannot become the shared weights\nHINT: look how it was initialized, or what was loaded"
            )

    @abstractmethod
    def align(self) -> None:
        """Take the leader's vector, bit for bit (collective)."""

    @abstractmethod
    def save(self) -> None:
        """Keep a copy of the vector until `restore`."""

    @abstractmethod
    def restore(self) -> None:
        """Restore the copy made by `save`, and free it."""


def finite(numbers: NDArray[np.generic]) -> bool:
    """Return whether no number is NaN or infinite; one pass over memory.

    Args:
        numbers: 1-D, float32, or bfloat16 as its bits, in uint16.

    Returns:
        True if all are finite.
    """
    if numbers.dtype == np.float32:
        with np.errstate(over="ignore", invalid="ignore"):  # the sum of squares alone may be too large
            if np.isfinite(np.dot(numbers, numbers)):
                return True
        return all(bool(np.isfinite(part).all()) for part in _pieces(numbers))
    return all(bool((part & EXPONENT != EXPONENT).all()) for part in _pieces(numbers))


def _pieces(numbers: NDArray[Any]) -> Iterator[NDArray[Any]]:
    return (numbers[start : start + PIECE] for start in range(0, numbers.size, PIECE))


def mixed(statistics: Any, sent: Any, rate: float, correction: Any) -> Any:
    """Return the statistics S after an exchange: S + rate (S_sent - S) - d.

    With d = rate (S_sent - G) that is (1 - rate) S + rate G, a mixture, so that a variance never falls below zero,
    however far S has moved since the snapshot S_sent.

    Args:
        statistics: the current S; an array of any framework.
        sent: S_sent, the snapshot.
        rate: moving rate of the exchange.
        correction: d, left by the exchange.

    Returns:
        A new array.
    """
    return statistics + (sent - statistics) * rate - correction


@contextmanager
def shared_weights(vectors: Sequence[Vector], buffers: Sequence[Buffer]) -> Iterator[None]:
    """Give the vectors the buffers' values inside the `with` block, and their own again afterwards."""
    for vector in vectors:
        vector.save()
    try:
        for vector, buffer in zip(vectors, buffers, strict=True):
            vector.read(buffer)
        yield
    finally:
        for vector in vectors:
            vector.restore()
