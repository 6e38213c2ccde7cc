"""Local `exchange` against a plain pass over memory: what locks, chunks, threads and the shared mapping cost."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numba import njit

from bench.processes import memory_server
from bench.row import Effort, Row
from bench.timing import take_turns, timed
from modum.box import Box
from modum.box.box import MOST_THREADS

MOVING_RATE = 0.3

Array = np.ndarray[tuple[int], np.dtype[np.float32]]


@njit(nogil=True)
def _swap(g: Any, x: Any) -> None:
    """The memory traffic of an exchange and no arithmetic: each number of both arrays is read and written once."""
    for i in range(g.size):
        held = g[i]
        g[i] = x[i]
        x[i] = held


def plain_pass(elements: int, threads: int, pool: ThreadPoolExecutor) -> Callable[[], None]:
    """A pass over two private arrays, without locks or chunks, dealt out to `threads`."""
    parts = list(
        zip(
            np.array_split(np.ones(elements, np.float32), threads),
            np.array_split(np.ones(elements, np.float32), threads),
            strict=True,
        )
    )

    def act() -> None:
        if threads == 1:
            _swap(*parts[0])
        else:
            list(pool.map(lambda part: _swap(*part), parts))

    return act


def measure(effort: Effort) -> Iterator[Row]:
    """The same number of threads on both sides: one, then as many as an operation takes by default."""
    elements = effort.nbytes // 4
    default = min(MOST_THREADS, len(os.sched_getaffinity(0)))
    x = np.ones(elements, np.float32)
    with memory_server() as server, ThreadPoolExecutor(default) as pool:
        for threads in sorted({1, default}):
            with Box.connect(server.address, transport="local", threads=threads) as box:
                buffer = box.create("exchange", elements)
                turns = take_turns(
                    {
                        "pass": timed(plain_pass(elements, threads, pool)),
                        "exchange": timed(lambda buffer=buffer: buffer.exchange(x, MOVING_RATE)),  # type: ignore[misc]
                    },
                    effort.rounds,
                )
                buffer.close()
                box.delete("exchange")
            traffic = 4 * effort.nbytes / turns.median("exchange") / 1e9
            yield Row(
                what=f"local exchange, time of a plain pass / its time, {threads} thread{'s' * (threads > 1)} each",
                measured=turns.ratio("pass", "exchange"),
                at_least=0.85,
                detail=f"pass {turns.milliseconds('pass')}, exchange {turns.milliseconds('exchange')}, "
                f"{traffic:.0f} GB/s of memory traffic",
                samples=turns.samples,
                quiet=turns.quiet,
            )
