"""The kernels in Numba: one pass over memory each, without the interpreter's lock.

Single-threaded on purpose: callers run them on chunks in their own threads, which Numba's parallel layers do not allow.
Compiled on first use and cached on disk; importing this module compiles nothing.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import njit

from modum.box.kernels import FLOATING, STORAGE, Array

_compile: Callable[[Callable[..., Any]], Any] = njit(nogil=True, cache=True, fastmath=False)

_SIXTEEN = np.uint32(16)
_HALF = np.uint32(0x7FFF)
_ONE = np.uint32(1)
_SIGN_OFF = np.uint32(0x7FFFFFFF)
_INFINITY = np.uint32(0x7F800000)
_QUIET_NAN = np.uint16(0x7FC0)


@_compile
def _widen(bits: Any) -> Any:
    return np.uint32(np.uint32(bits) << _SIXTEEN).view(np.float32)


@_compile
def _narrow(value: Any) -> Any:
    bits = np.float32(value).view(np.uint32)
    rounded = np.uint16(np.uint32(bits + _HALF + np.uint32(np.uint32(bits >> _SIXTEEN) & _ONE)) >> _SIXTEEN)
    return _QUIET_NAN if np.uint32(bits & _SIGN_OFF) > _INFINITY else rounded


@_compile
def _add(target: Any, x: Any, factor: Any) -> None:
    for i in range(target.size):
        target[i] += factor * x[i]


@_compile
def _add_bfloat16(target: Any, x: Any, factor: Any) -> None:
    for i in range(target.size):
        target[i] = _narrow(_widen(target[i]) + factor * _widen(x[i]))


@_compile
def _exchange(target: Any, x: Any, rate: Any) -> None:
    for i in range(target.size):
        d = rate * (x[i] - target[i])
        x[i] -= d
        target[i] += d


@_compile
def _exchange_bfloat16(target: Any, x: Any, rate: Any) -> None:
    for i in range(target.size):
        ours, theirs = _widen(x[i]), _widen(target[i])
        d = _widen(_narrow(rate * (ours - theirs)))
        x[i] = _narrow(ours - d)
        target[i] = _narrow(theirs + d)


@_compile
def _difference(target: Any, x: Any, rate: Any) -> None:
    for i in range(target.size):
        d = rate * (x[i] - target[i])
        x[i] = d
        target[i] += d


@_compile
def _difference_bfloat16(target: Any, x: Any, rate: Any) -> None:
    for i in range(target.size):
        theirs = _widen(target[i])
        d = _narrow(rate * (_widen(x[i]) - theirs))
        x[i] = d
        target[i] = _narrow(theirs + _widen(d))


@_compile
def _subtract(x: Any, d: Any) -> None:
    for i in range(x.size):
        x[i] -= d[i]


@_compile
def _subtract_bfloat16(x: Any, d: Any) -> None:
    for i in range(x.size):
        x[i] = _narrow(_widen(x[i]) - _widen(d[i]))


@_compile
def _scale(target: Any, x: Any, factor: Any) -> None:
    for i in range(target.size):
        target[i] = factor * x[i]


@_compile
def _scale_bfloat16(target: Any, x: Any, factor: Any) -> None:
    for i in range(target.size):
        target[i] = _narrow(factor * _widen(x[i]))


@cache
def prepare(dtype: str) -> None:
    """Compile, or load from the cache, what `dtype` needs: a lock must never be held through a compilation."""
    target, factor = np.zeros(1, STORAGE[dtype]), np.float32(1) if dtype in FLOATING else np.int64(1)
    frozen = np.zeros(1, STORAGE[dtype])
    frozen.flags.writeable = False
    for x in (np.zeros(1, STORAGE[dtype]), frozen):
        add(dtype, target, x, factor)
        scale(dtype, target, x, factor)
    if dtype in FLOATING:
        x = np.zeros(1, STORAGE[dtype])
        exchange(dtype, target, x, factor)
        difference(dtype, target, x, factor)
        subtract(dtype, target, x)


def add(dtype: str, target: Array, x: Array, factor: Any) -> None:
    """Compute target += factor * x."""
    (_add_bfloat16 if dtype == "bfloat16" else _add)(target, x, factor)


def exchange(dtype: str, target: Array, x: Array, moving_rate: Any) -> None:
    """Compute d = moving_rate (x - target); x -= d; target += d."""
    (_exchange_bfloat16 if dtype == "bfloat16" else _exchange)(target, x, moving_rate)


def difference(dtype: str, target: Array, x: Array, moving_rate: Any) -> None:
    """Compute d = moving_rate (x - target); x = d; target += d."""
    (_difference_bfloat16 if dtype == "bfloat16" else _difference)(target, x, moving_rate)


def subtract(dtype: str, x: Array, d: Array) -> None:
    """Compute x -= d."""
    (_subtract_bfloat16 if dtype == "bfloat16" else _subtract)(x, d)


def scale(dtype: str, target: Array, x: Array, factor: Any) -> None:
    """Compute target = factor * x."""
    (_scale_bfloat16 if dtype == "bfloat16" else _scale)(target, x, factor)
