"""The arithmetic of the box, twice: `fused` (Numba, one pass over memory) and `portable` (NumPy, several passes).

Both give the same bits: every operation rounds where the contract says, in single precision, and nothing is contracted
to a fused multiply-add. Clients that map the memory use `fused`; a memory server uses `portable`, because what
arrives over a network lies in the cache already and Numba would cost the server 100 MB and seconds of compilation.

    add(g, x, s)         g = g + s x
    exchange(g, x, a)    d = a (x - g);  x = x - d;  g = g + d
    difference(g, x, a)  d = a (x - g);  x = d;      g = g + d
    subtract(x, d)       x = x - d
    scale(g, x, s)       g = s x

All arrays are 1-D, contiguous, of one length and one dtype; bfloat16 lies in uint16 arrays, is computed in
single precision and rounded to nearest even once for every d and every value that is stored.
"""

import math
import sys
from typing import Any, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["FLOATING", "STORAGE", "TAKES", "Array", "Kernels", "factor_for", "fits"]

Array = NDArray[Any]

STORAGE: Final[dict[str, np.dtype[Any]]] = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(np.uint16),
    "int64": np.dtype(np.int64),
}
"""The dtypes of buffers, and what holds their elements in an array."""
FLOATING: Final = frozenset({"float32", "bfloat16"})
"""Those that an exchange can be made with."""
_LARGEST_WHOLE: Final = 2**53
"""A factor crosses the wire as a double."""
_LARGEST_SINGLE: Final = float(np.finfo(np.float32).max)
_SINGLE_BITS: Final = 24
_SINGLE_RANGE: Final = 2**128
TAKES: Final = {
    "float32": "floats of at most 3.4e38, and whole numbers that it holds exactly: round others with np.float32(...)",
    "int64": "whole numbers in [-2**63, 2**63), as floats below 2**53: round others with np.rint(...)",
}
"""What numbers of Python become elements, in words for an error: see `fits`."""


Leave = Literal["moved", "difference", "present"]
"""What an exchange leaves with the caller: see `modum.box.Buffer.exchange`."""


class Kernels(Protocol):
    """What `fused` and `portable` have in common.

    `dtype` is a key of `STORAGE`; all arrays are 1-D, contiguous, of the same length, in the storage dtype. `factor`
    and `moving_rate` are scalars from `factor_for`.
    """

    def prepare(self, dtype: str) -> None:
        """Load or compile whatever is needed for `dtype`; called before any lock is taken."""

    def add(self, dtype: str, target: Array, x: Array, factor: Any) -> None:
        """Compute target += factor * x."""

    def exchange(self, dtype: str, target: Array, x: Array, moving_rate: Any) -> None:
        """Compute d = moving_rate (x - target); x -= d; target += d."""

    def difference(self, dtype: str, target: Array, x: Array, moving_rate: Any) -> None:
        """Compute d = moving_rate (x - target); x = d; target += d."""

    def present(self, dtype: str, target: Array, x: Array, moving_rate: Any) -> None:
        """Compute g = target; target += moving_rate (x - target); x = g."""

    def subtract(self, dtype: str, x: Array, d: Array) -> None:
        """Compute x -= d."""

    def scale(self, dtype: str, target: Array, x: Array, factor: Any) -> None:
        """Compute target = factor * x."""


def factor_for(dtype: str, factor: float) -> Any:
    """Return `factor` as a scalar of the arithmetic of `dtype`: single precision, or a whole number for int64.

    Args:
        dtype: of the buffer.
        factor: as the caller gave it.

    Returns:
        A NumPy float32, or an int64.

    Raises:
        ValueError: int64 was given a factor that is not a whole number of at most 53 bits, or another dtype one that is
            finite and would be infinite in single precision.
        TypeError: it is not one real number.
    """
    try:
        # most are plain floats, and np.ndim takes longer than everything else here
        if type(factor) is not float and (np.ndim(factor) or isinstance(factor, str | bytes)):
            raise TypeError
        value = float(factor)
    except TypeError:
        raise TypeError(f"a factor is one real number, not {factor!r}") from None
    except OverflowError:
        value = sys.float_info.max  # an integer beyond it: too large for every dtype
    if dtype in FLOATING:
        if _LARGEST_SINGLE < abs(value) < math.inf:
            raise ValueError(f"a {dtype} buffer takes a factor of at most 3.4e38, not {factor}")
        return np.float32(value)
    if not value.is_integer() or abs(int(factor)) > _LARGEST_WHOLE:
        raise ValueError(f"an int64 buffer takes a whole-number factor of at most 2**53, not {factor}")
    return np.int64(factor)


def fits(dtype: str, number: float) -> bool:
    """Return whether a number of Python becomes an element: floats may be rounded to single precision, no more."""
    if isinstance(number, float):
        if dtype == "int64":  # a larger float may stand for a whole number that it is not
            return number.is_integer() and abs(number) < _LARGEST_WHOLE
        return not _LARGEST_SINGLE < abs(number) < math.inf
    if dtype == "int64":
        return -(2**63) <= number < 2**63
    size = abs(number)
    return size < _SINGLE_RANGE and (size // max(1, size & -size)).bit_length() <= _SINGLE_BITS
