"""The kernels in Numba: one pass over memory each, without the interpreter's lock.

Single-threaded on purpose: callers run them on chunks in their own threads, which Numba's parallel layers do not allow.
Compiled on first use and cached on disk; importing this module compiles nothing. Numba's cache lies beside this file or
in the user's cache folder. Where neither can be written, as in a container whose user has no home, it is a folder of
this user's own under the one for temporary files; where there is none, every process compiles anew.
"""

import logging
import os
import stat
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numba
import numpy as np

from modum.box.kernels import FLOATING, STORAGE, Array

_log = logging.getLogger("modum")
_njit: Callable[..., Any] = partial(numba.njit, nogil=True, fastmath=False)
_config: Any = numba.config


def _compile(function: Callable[..., Any]) -> Any:
    """Have Numba compile a function when it is first called."""
    try:
        return _njit(cache=True)(function)
    except RuntimeError:  # there is no folder for its cache
        folder = _temporary_folder()
    if folder is None:
        return _njit()(function)
    before = _config.CACHE_DIR
    _config.CACHE_DIR = str(folder)  # Numba looks at it here, and not later
    try:
        return _njit(cache=True)(function)
    finally:
        _config.CACHE_DIR = before


@cache
def _temporary_folder() -> Path | None:
    """Return a folder that nobody else can have put code into, or None."""
    try:
        folder = Path(tempfile.gettempdir()) / f"modum-kernels-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077:
            return folder
        problem = f"{folder} is not a folder of this user alone"
    except OSError as error:
        problem = str(error)
    _log.warning(
        "the kernels are compiled anew by each process, which takes seconds: no folder for them can be written (%s)\n"
        "HINT: set NUMBA_CACHE_DIR to one that can",
        problem,
    )
    return None


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
def _present(target: Any, x: Any, rate: Any) -> None:
    for i in range(target.size):
        g = target[i]
        target[i] = g + rate * (x[i] - g)
        x[i] = g


@_compile
def _present_bfloat16(target: Any, x: Any, rate: Any) -> None:
    for i in range(target.size):
        g = target[i]
        theirs = _widen(g)
        target[i] = _narrow(theirs + _widen(_narrow(rate * (_widen(x[i]) - theirs))))
        x[i] = g


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
        present(dtype, target, x, factor)
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


def present(dtype: str, target: Array, x: Array, moving_rate: Any) -> None:
    """Compute g = target; target += moving_rate (x - target); x = g."""
    (_present_bfloat16 if dtype == "bfloat16" else _present)(target, x, moving_rate)


def subtract(dtype: str, x: Array, d: Array) -> None:
    """Compute x -= d."""
    (_subtract_bfloat16 if dtype == "bfloat16" else _subtract)(x, d)


def scale(dtype: str, target: Array, x: Array, factor: Any) -> None:
    """Compute target = factor * x."""
    (_scale_bfloat16 if dtype == "bfloat16" else _scale)(target, x, factor)
