"""`exchange` over TCP against two plain Python threads that send and receive the same bytes."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np

from bench.exchange import MOVING_RATE
from bench.peers.sockets import both_ways
from bench.processes import memory_server, peer
from bench.row import Effort, Row
from bench.timing import take_turns, timed
from modum.box import Box


def measure(effort: Effort) -> Iterator[Row]:
    """Over loopback, one connection, two processes on either side of the ratio."""
    x = np.ones(effort.nbytes // 4, np.float32)
    out, into = memoryview(bytearray(effort.nbytes)), memoryview(bytearray(effort.nbytes))
    with ExitStack() as stack:
        server = stack.enter_context(memory_server())
        box = stack.enter_context(Box.connect(server.address, transport="tcp"))
        buffer = box.create("exchange", x.size)
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        other = stack.enter_context(peer("sockets", listener.getsockname()[1], effort.nbytes))
        connection = stack.enter_context(listener.accept()[0])

        def plain() -> None:
            other.tell()
            both_ways(connection, out, into)

        turns = take_turns(
            {"plain": timed(plain), "exchange": timed(lambda: buffer.exchange(x, MOVING_RATE))}, effort.rounds
        )
        buffer.close()
    rates = {side: 2 * effort.nbytes / turns.median(side) / 1e9 for side in turns.samples}
    yield Row(
        what="tcp exchange, bytes both ways a second / plain sockets",
        measured=rates["exchange"] / rates["plain"],
        at_least=0.9,
        detail=f"plain {turns.milliseconds('plain')}, {rates['plain']:.2f} GB/s; "
        f"exchange {turns.milliseconds('exchange')}, {rates['exchange']:.2f} GB/s",
        samples=turns.samples,
        quiet=turns.quiet,
    )
