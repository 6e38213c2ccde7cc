"""Small operations: what one call costs when hardly any bytes move."""

from collections.abc import Callable, Iterator

import numpy as np

from bench.exchange import MOVING_RATE
from bench.processes import memory_server
from bench.row import Effort, Row
from bench.timing import take_turns, timed
from modum.box import Box, Buffer

ELEMENTS = 1024
"""4 KiB of float32."""
CALLS = 100
"""Calls for every round of an `Effort`."""
LIMITS = {"local": 40.0, "tcp": 200.0}
"""Microseconds."""


def measure(effort: Effort) -> Iterator[Row]:
    """The slowest of read, write, add and exchange counts."""
    with memory_server() as server:
        for transport, limit in LIMITS.items():
            with Box.connect(server.address, transport=transport) as box:
                buffer = box.create("small", ELEMENTS)
                turns = take_turns(_sides(buffer), CALLS * effort.rounds)
                buffer.close()
                box.delete("small")
            medians = {name: turns.median(name) * 1e6 for name in turns.samples}
            yield Row(
                what=f"small operations (4 KiB), {transport}, slowest median",
                measured=max(medians.values()),
                unit="us",
                at_most=limit,
                detail=", ".join(f"{name} {microseconds:.0f} us" for name, microseconds in medians.items()),
                samples=turns.samples,
                quiet=turns.quiet,
            )


def _sides(buffer: Buffer) -> dict[str, Callable[[], float]]:
    x = np.ones(ELEMENTS, np.float32)
    return {
        "read": timed(lambda: buffer.read(x)),
        "write": timed(lambda: buffer.write(x)),
        "add": timed(lambda: buffer.add(x)),
        "exchange": timed(lambda: buffer.exchange(x, MOVING_RATE)),
    }
