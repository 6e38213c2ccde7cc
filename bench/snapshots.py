"""What a snapshot costs those who exchange meanwhile, and how long restoring takes: `python -m bench.snapshots`."""

import multiprocessing
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer

from bench.machine import OtherLoad, describe
from modum.box import Box, SnapshotSettings
from modum.box.server.process import ready_address, server_command
from modum.units import format_bytes, format_seconds, parse_bytes

TRANSPORTS: Final = ("local", "tcp")
PART: Final = 32 << 20
"""Bytes of one exchange: the parts of the buffer take turns."""
REST: Final = 3.0
"""Seconds without a snapshot before each one."""


@contextmanager
def server(folder: Path, memory: int, *, restore: bool) -> Iterator[str]:
    """Run a memory server that writes snapshots when it is asked to; yield its address."""
    command = server_command(
        memory, snapshots=SnapshotSettings(folder=folder, every=None), restore=folder if restore else None
    )
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        address = ready_address(process.stdout.readline().rstrip("\n"))
        assert address is not None
        yield address
        process.terminate()


def exchange(address: str, transport: str, pipe: Connection) -> None:
    """Exchange until something comes over the pipe; answer when each exchange began and ended."""
    with Box.connect(address, transport=transport) as box:
        buffer = box.open("weights")
        x = np.ones(PART // 4, np.float32)
        buffer.exchange(x, 0.5)  # compilation, first touch
        pipe.send(None)
        moments: list[tuple[float, float]] = []
        while not pipe.poll():
            start = time.monotonic()
            buffer.exchange(x, 0.5, offset=len(moments) % (buffer.size // x.size) * x.size)
            moments.append((start, time.monotonic()))
        pipe.send(moments)


def copying(address: str, out: np.ndarray[tuple[int], np.dtype[np.float32]]) -> float:
    """Return the seconds of a read by one thread: it holds as many locks for as long as a snapshot does."""
    with Box.connect(address, transport="local", threads=1) as box:
        buffer = box.open("weights")
        seconds = []
        for _ in range(5):
            start = time.monotonic()
            buffer.read(out)
            seconds.append(time.monotonic() - start)
        return statistics.median(seconds)


def beside(address: str, transport: str, snapshots: int, box: Box) -> str:
    """Say how many exchanges a second there are with and without a snapshot under way, and how long they take."""
    pipe, other = multiprocessing.Pipe()
    client = multiprocessing.get_context("spawn").Process(target=exchange, args=(address, transport, other))
    client.start()
    pipe.recv()
    began, during = time.monotonic(), []
    load = OtherLoad()
    for _ in range(snapshots):
        time.sleep(REST)
        start = time.monotonic()
        box.snapshot()
        during.append((start, time.monotonic()))
    ended = time.monotonic()
    pipe.send(None)
    moments = pipe.recv()
    client.join()
    inside = sum(end - start for start, end in during)
    with_one = [end - start for start, end in moments if any(low <= end <= high for low, high in during)]
    without = [end - start for start, end in moments if all(end < low or start > high for low, high in during)]
    rates = len(with_one) / inside, len(without) / (ended - began - inside)
    return (
        f"{transport}: a snapshot took {format_seconds(inside / snapshots)}; exchanges of {format_bytes(PART)} a"
        f" second: {rates[0]:.1f} meanwhile, {rates[1]:.1f} otherwise ({rates[0] / rates[1]:.0%});"
        f" median {format_seconds(statistics.median(with_one))} and {format_seconds(statistics.median(without))},"
        f" longest {format_seconds(max(with_one))} and {format_seconds(max(without))}; others took {load.share():.0%}"
    )


def main(
    size: Annotated[str, typer.Option(help="Bytes of the buffer.")] = "1GB",
    snapshots: Annotated[int, typer.Option(min=1, help="Snapshots with each transport.")] = 5,
    folder: Annotated[Path | None, typer.Option(help="Where to write them, instead of a temporary folder.")] = None,
) -> None:
    """Write snapshots of a buffer with one client that exchanges, then restore it."""
    nbytes = parse_bytes(size)
    print("; ".join(value for name, value in describe().items() if name != "date"))
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        path = Path(temporary)
        with server(path, 2 * nbytes, restore=False) as address, Box.connect(address, transport="tcp") as box:
            weights = np.random.default_rng(0).standard_normal(nbytes // 4, np.float32)
            box.create("weights", weights.size).write(weights)
            start = time.monotonic()
            box.snapshot()
            print(f"a snapshot of {format_bytes(nbytes)} with no client: {format_seconds(time.monotonic() - start)}")
            print(f"copying it under its chunks' locks, all in all: {format_seconds(copying(address, weights))}")
            for transport in TRANSPORTS:
                print(beside(address, transport, snapshots, box), flush=True)
        for _ in range(3):
            start = time.monotonic()
            with server(path, 2 * nbytes, restore=True):
                restored = time.monotonic() - start
            start = time.monotonic()
            with server(path / "empty", 2 * nbytes, restore=False):
                empty = time.monotonic() - start
            print(f"a server is ready after {format_seconds(restored)} with that, {format_seconds(empty)} empty")


if __name__ == "__main__":
    typer.run(main)
