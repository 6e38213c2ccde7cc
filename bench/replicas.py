"""Operations over TCP on three memory servers with replicas against the same on three without: what it costs."""

import time
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np

from bench.exchange import MOVING_RATE
from bench.row import Effort, Row
from bench.timing import take_turns, timed
from modum.box import Box
from modum.box.server.process import ServerProcesses
from modum.cluster.ports import free_ports

SERVERS = 3


def measure(effort: Effort) -> Iterator[Row]:
    """Over loopback, servers in processes of their own."""
    x = np.ones(effort.nbytes // 4, np.float32)
    with ExitStack() as stack:
        buffers = {}
        for side, ports in (("plain", []), ("replicas", free_ports(SERVERS))):
            servers = stack.enter_context(ServerProcesses(8 << 30, count=SERVERS, replicas=ports))
            box = stack.enter_context(Box.connect(servers.addresses, transport="tcp"))
            buffers[side] = box.create("exchange", x.size)
            stands = [server.stand for server in box.statistics().servers]
            while any(stand is not None and stand.backup < 0 for stand in stands):
                time.sleep(0.1)
                stands = [server.stand for server in box.statistics().servers]
        for what, act, share, bar in (
            ("exchange", lambda buffer: buffer.exchange(x, MOVING_RATE), 2, 0.45),
            ("read", lambda buffer: buffer.read(x), 1, 0.9),
        ):
            acts = {side: timed(lambda act=act, buffer=buffer: act(buffer)) for side, buffer in buffers.items()}  # type: ignore[misc]
            turns = take_turns(acts, effort.rounds)
            rates = {side: share * effort.nbytes / turns.median(side) / 1e9 for side in turns.samples}
            yield Row(
                what=f"tcp {what}, bytes a second, with two replicas / without",
                measured=rates["replicas"] / rates["plain"],
                at_least=bar,
                detail=f"plain {turns.milliseconds('plain')}, {rates['plain']:.2f} GB/s; "
                f"replicas {turns.milliseconds('replicas')}, {rates['replicas']:.2f} GB/s",
                samples=turns.samples,
                quiet=turns.quiet,
            )
