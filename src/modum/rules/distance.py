"""How far a worker is from the shared weights, seen in some of its numbers: a look at all would cost a pass."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ratio", "sample"]

SAMPLED = 1 << 14
"""About how many numbers are looked at, at least."""


def sample(numbers: NDArray[Any]) -> NDArray[np.float64]:
    """Return some numbers, evenly spread.

    Args:
        numbers: 1-D; bfloat16 as its bits, in uint16.

    Returns:
        Copies.
    """
    some = numbers[:: max(1, numbers.size // SAMPLED)]
    if some.dtype == np.uint16:
        some = (some.astype(np.uint32) << 16).view(np.float32)
    return some.astype(np.float64)


def ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> float:
    """Return the norm of one as a part of that of the other; 0 where that is 0."""
    size = float(np.linalg.norm(whole))
    return float(np.linalg.norm(part)) / size if size else 0.0
