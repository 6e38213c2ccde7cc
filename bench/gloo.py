"""Local `exchange` against a gloo all-reduce of the same bytes between two processes."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from bench.exchange import MOVING_RATE
from bench.processes import memory_server, peer
from bench.row import Effort, Row
from bench.timing import take_turns, timed
from modum.box import Box


def measure(effort: Effort) -> Iterator[Row]:
    """Both processes of gloo have one compute thread; the exchange takes as many as it does by default."""
    x = np.ones(effort.nbytes // 4, np.float32)
    with ExitStack() as stack:
        file = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "meeting-point"
        ranks = [stack.enter_context(peer("gloo", rank, file, effort.nbytes)) for rank in range(2)]
        server = stack.enter_context(memory_server())
        box = stack.enter_context(Box.connect(server.address, transport="local"))
        buffer = box.create("exchange", x.size)

        def all_reduce() -> float:
            for rank in ranks:
                rank.tell()
            return min(float(rank.answer()) for rank in ranks)

        turns = take_turns(
            {"gloo": all_reduce, "exchange": timed(lambda: buffer.exchange(x, MOVING_RATE))}, effort.rounds
        )
        buffer.close()
    yield Row(
        what="local exchange, times faster than a gloo all-reduce of 2 processes",
        measured=turns.ratio("gloo", "exchange"),
        unit="x",
        at_least=8,
        detail=f"gloo {turns.milliseconds('gloo')}, exchange {turns.milliseconds('exchange')}",
        samples=turns.samples,
        quiet=turns.quiet,
    )
