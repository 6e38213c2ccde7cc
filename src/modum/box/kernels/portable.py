"""The kernels in NumPy: a few passes over a chunk that is in the cache already."""

from typing import Any

import numpy as np

from modum.box.kernels import Array

_QUIET_NAN = np.uint16(0x7FC0)
_quiet = np.errstate(all="ignore")  # a model that diverges is its trainer's concern: infinities are numbers here


def widen(bits: Array) -> Array:
    """Return bfloat16 bits as single precision."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def narrow(values: Array) -> Array:
    """Return single precision as bfloat16 bits, rounded to nearest even."""
    bits = values.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    narrow = rounded.astype(np.uint16)
    narrow[np.isnan(values)] = _QUIET_NAN
    return narrow


def prepare(dtype: str) -> None:
    """Do nothing: there is nothing to load."""


@_quiet
def add(dtype: str, target: Array, x: Array, factor: Any) -> None:
    """Compute target += factor * x."""
    if dtype == "bfloat16":
        target[:] = narrow(widen(target) + factor * widen(x))
    elif factor == 1:
        target += x
    else:
        target += factor * x


@_quiet
def exchange(dtype: str, target: Array, x: Array, moving_rate: Any) -> None:
    """Compute d = moving_rate (x - target); x -= d; target += d."""
    before = x.copy()
    difference(dtype, target, x, moving_rate)
    subtract(dtype, before, x)
    x[:] = before


@_quiet
def difference(dtype: str, target: Array, x: Array, moving_rate: Any) -> None:
    """Compute d = moving_rate (x - target); x = d; target += d."""
    if dtype == "bfloat16":
        wide = widen(target)
        x[:] = narrow(moving_rate * (widen(x) - wide))
        target[:] = narrow(wide + widen(x))
    else:
        np.subtract(x, target, out=x)
        np.multiply(x, moving_rate, out=x)
        np.add(target, x, out=target)


@_quiet
def present(dtype: str, target: Array, x: Array, moving_rate: Any) -> None:
    """Compute g = target; target += moving_rate (x - target); x = g."""
    before = target.copy()
    difference(dtype, target, x, moving_rate)
    x[:] = before


@_quiet
def subtract(dtype: str, x: Array, d: Array) -> None:
    """Compute x -= d."""
    if dtype == "bfloat16":
        x[:] = narrow(widen(x) - widen(d))
    else:
        np.subtract(x, d, out=x)


@_quiet
def scale(dtype: str, target: Array, x: Array, factor: Any) -> None:
    """Compute target = factor * x."""
    if dtype == "bfloat16":
        target[:] = narrow(factor * widen(x))
    else:
        np.multiply(x, factor, out=target)
