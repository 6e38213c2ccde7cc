"""Processes on the two hosts of the emulated machine, and what its devices have counted."""

import multiprocessing
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.box.conftest import EMULATED
from tests.rdma.roles import take_part

_context = multiprocessing.get_context("forkserver")
if EMULATED:  # where a fresh interpreter takes ten seconds to import NumPy
    from multiprocessing import forkserver

    _context.set_forkserver_preload(["tests.rdma.roles"])
    forkserver.ensure_running()  # before the tests begin: it stays until they end


@contextmanager
def process(
    role: str, *arguments: str, host: str = "", devices: str = "rxa:1,rxc:1"
) -> Iterator[tuple[BaseProcess, Connection]]:
    """Another process with a role of `roles`, and the way to it; it is killed at the end if it still runs."""
    near, far = _context.Pipe()
    child = _context.Process(target=take_part, args=(role, far, host, devices, *arguments))
    child.start()
    far.close()
    try:
        yield child, near
    finally:
        near.close()
        child.kill()
        child.join()
        child.close()


@contextmanager
def server(devices: str, host: str = "", address: str = "127.0.0.1") -> Iterator[tuple[BaseProcess, str]]:
    """A memory server with these devices: (its process, its address)."""
    with process("server", address, host=host, devices=devices) as (child, way):
        yield child, way.recv()


def packets(device: str) -> int:
    """Packets that the device has sent so far."""
    return int(Path(f"/sys/class/infiniband/{device}/ports/1/hw_counters/sent_pkts").read_text())


def received_bytes(interface: str) -> int:
    """Bytes that have come through the network interface below a device so far."""
    return int(Path(f"/sys/class/net/{interface}/statistics/rx_bytes").read_text())


def queue_pairs() -> int:
    """Queue pairs that the devices hold now."""
    shown = subprocess.run(["rdma", "resource", "show", "qp"], capture_output=True, text=True, check=True)
    return sum("type RC" in line for line in shown.stdout.splitlines())
