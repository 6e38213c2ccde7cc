"""The parts of batches that go through the stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["MicroBatch", "cut"]

Array = np.ndarray[Any, Any]


@dataclass(slots=True)
class MicroBatch:
    """A micro-batch on its way through this stage."""

    number: int
    batch: Array
    """Its part of the batch's sample indices."""
    last: bool
    """Whether it is the last of its batch."""
    weight: float
    """Its fraction of its batch."""
    progress: float
    results: dict[str, float] | None = None
    """Loss and metrics: on the last stage at once, elsewhere with the gradients."""

    @property
    def note(self) -> dict[str, Any]:
        """What the next stage must know about it, besides `batch`."""
        return {"number": self.number, "last": self.last, "weight": self.weight, "progress": self.progress}


def cut(batch: Array, parts: int, number: Callable[[], int], progress: float) -> Iterator[MicroBatch]:
    """Cut a batch into micro-batches of equal size (to one sample), none of them empty.

    Args:
        batch: 1-D array of sample indices.
        parts: number of micro-batches; fewer if the batch has fewer samples.
        number: returns the next micro-batch's number.
        progress: the job's progress, 0 to 1.

    Yields:
        The micro-batches, in the order of their samples.

    Raises:
        ValueError: `batch` is not a 1-D array, or is empty.
    """
    if batch.ndim != 1 or batch.size == 0:
        raise ValueError(f"a batch is a 1-D array of at least one sample index, not of shape {batch.shape}")
    pieces = np.array_split(batch, min(parts, batch.size))
    for place, piece in enumerate(pieces):
        yield MicroBatch(
            number=number(),
            batch=piece,
            last=place == len(pieces) - 1,
            weight=piece.size / batch.size,
            progress=progress,
        )
