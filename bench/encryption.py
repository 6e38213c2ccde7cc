"""`exchange` over TCP with encryption against the same without: what it costs to trust no network."""

import os
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np

from bench.exchange import MOVING_RATE
from bench.row import Effort, Row
from bench.timing import take_turns, timed
from modum.box import Box, new_token
from modum.box.server.process import ServerProcesses


def measure(effort: Effort) -> Iterator[Row]:
    """Over loopback, one connection to each of two memory servers in processes of their own."""
    x = np.ones(effort.nbytes // 4, np.float32)
    token = new_token()
    with ExitStack() as stack:
        acts = {}
        for side, encrypt in (("plain", False), ("encrypted", True)):
            servers = stack.enter_context(
                ServerProcesses(8 << 30, environment={**os.environ, "MODUM_TOKEN": token}, encrypt=encrypt)
            )
            box = stack.enter_context(Box.connect(servers.addresses, token=token, transport="tcp"))
            buffer = box.create("exchange", x.size)
            acts[side] = timed(lambda buffer=buffer: buffer.exchange(x, MOVING_RATE))  # type: ignore[misc]
        turns = take_turns(acts, effort.rounds)
    rates = {side: 2 * effort.nbytes / turns.median(side) / 1e9 for side in turns.samples}
    yield Row(
        what="tcp exchange, bytes both ways a second, encrypted / plain",
        measured=rates["encrypted"] / rates["plain"],
        at_least=0.6,
        detail=f"plain {turns.milliseconds('plain')}, {rates['plain']:.2f} GB/s; "
        f"encrypted {turns.milliseconds('encrypted')}, {rates['encrypted']:.2f} GB/s",
        samples=turns.samples,
        quiet=turns.quiet,
    )
