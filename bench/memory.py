"""Memory: what a server takes beside its pool, and what a worker takes beside its model."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.exchange import MOVING_RATE
from bench.processes import ROOT, ServerProcess, memory_server
from bench.row import Effort, Row
from modum.box import Box

EXCHANGES = 3
MODEL = 2
"""Size of the worker's model in units of `Effort.nbytes`."""


def measure(effort: Effort) -> Iterator[Row]:
    """A server that was used over both transports; a worker that trained over TCP, where nothing is shared."""
    with memory_server() as server:
        yield _server_row(server, effort.nbytes)
    with memory_server() as server:
        yield _worker_row(server, MODEL * effort.nbytes)


def _server_row(server: ServerProcess, nbytes: int) -> Row:
    x = np.ones(nbytes // 4, np.float32)
    with (
        Box.connect(server.address, transport="local") as local,
        Box.connect(server.address, transport="tcp") as remote,
    ):
        buffers = local.create("exchange", x.size), remote.open("exchange")
        for _ in range(EXCHANGES):
            for buffer in buffers:
                buffer.exchange(x, MOVING_RATE)
        used = local.statistics().servers[0].used
        pages = _resident(server.pid)
        for buffer in buffers:
            buffer.close()
    return Row(
        what="memory of a server beside its pool",
        measured=(pages["RssAnon"] + pages["RssFile"]) / 1e6,
        unit="MB",
        at_most=100,
        detail=f"pool {used / 1e6:.0f} MB; resident: its own {pages['RssAnon'] / 1e6:.0f} MB, "
        f"programs {pages['RssFile'] / 1e6:.0f} MB, pages of the pool {pages['RssShmem'] / 1e6:.0f} MB",
    )


def _resident(pid: int) -> dict[str, int]:
    """Bytes of a process in memory, by kind."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = (line.split() for line in lines if line.startswith("Rss"))
    return {name.rstrip(":"): int(kibibytes) * 1024 for name, kibibytes, _ in fields}


def _worker_row(server: ServerProcess, nbytes: int) -> Row:
    command = [sys.executable, "-m", "bench.workers.memory", server.address, str(nbytes)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout
    weights, before, most, after = map(int, printed.split())
    return Row(
        what="memory that Averager(overlap=True) adds to a worker, at most",
        measured=(most - before) / weights,
        unit="copies",
        at_most=2,
        detail=f"model {weights / 1e6:.0f} MB; resident without {before / 1e6:.0f} MB, "
        f"with at most {most / 1e6:.0f} MB, at the end {after / 1e6:.0f} MB",
    )
