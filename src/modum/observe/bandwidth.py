"""Measure how fast a box is from this machine."""

import statistics
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

import numpy as np

from modum.box import Box, Buffer
from modum.errors import BufferNotFoundError

__all__ = ["Bandwidth", "measure_bandwidth"]

_REPEATS: Final = 5
_SMALL_REPEATS: Final = 50
_BUFFERS: Final = "modum/measure/"
_SESSION_SECONDS: Final = 1e9
"""The time of a lease that should end only with its session."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bandwidth:
    """Medians of measurements with one thread of this process.

    Speeds are bytes of the array per second, one way, without the fixed time of an operation.
    """

    read_bytes_per_second: float
    add_bytes_per_second: float
    exchange_bytes_per_second: float
    small_read_seconds: float
    """Seconds of a read of 4 bytes."""
    small_exchange_seconds: float
    """Seconds of an exchange of 4 bytes."""


def measure_bandwidth(box: Box, nbytes: int = 16 << 20) -> Bandwidth:
    """Measure reads, adds and exchanges with a buffer, which is deleted again, also after an interrupt.

    What a measurement has left whose process was killed is deleted too.

    Args:
        box: a connected box; other traffic of its servers lowers the result.
        nbytes: bytes of the buffer.

    Returns:
        The medians.

    Raises:
        PoolFullError: the box has no room for the buffer.
        ModumError: the box cannot be reached any more.
    """
    x = np.ones(nbytes // 4, np.float32)
    with _buffer(box, x.size) as buffer:
        small_read = _seconds(lambda: buffer.read(x[:1]), _SMALL_REPEATS)
        small_exchange = _seconds(lambda: buffer.exchange(x[:1], 0.5), _SMALL_REPEATS)
        return Bandwidth(
            read_bytes_per_second=_speed(nbytes, _seconds(lambda: buffer.read(x), _REPEATS), small_read),
            add_bytes_per_second=_speed(nbytes, _seconds(lambda: buffer.add(x), _REPEATS), small_exchange),
            exchange_bytes_per_second=_speed(
                nbytes, _seconds(lambda: buffer.exchange(x, 0.5), _REPEATS), small_exchange
            ),
            small_read_seconds=small_read,
            small_exchange_seconds=small_exchange,
        )


@contextmanager
def _buffer(box: Box, size: int) -> Iterator[Buffer]:
    """Make a buffer for the time of the `with` block; a lease of its name says that somebody still uses it."""
    # by the number of servers: a box of one of several does not see the leases of a box of all
    buffers = f"{_BUFFERS}{len(box.servers)}/"
    name = f"{buffers}{uuid.uuid4().hex[:12]}"
    used = {lease.name for lease in box.leases(buffers)}
    for found in box.list():
        if found.name.startswith(buffers) and found.name not in used:
            with suppress(BufferNotFoundError):
                box.delete(found.name)
    with box.lock(name, ttl=_SESSION_SECONDS):
        try:
            buffer = box.create(name, size)
            try:
                yield buffer
            finally:
                buffer.close()
        finally:
            with suppress(BufferNotFoundError):
                box.delete(name)


def _speed(nbytes: int, seconds: float, overhead: float) -> float:
    return nbytes / max(seconds - overhead, 1e-9)


def _seconds(act: Callable[[], object], repeats: int) -> float:
    """Return the median of several times, after a first one that warms up compilers and socket buffers."""
    act()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
