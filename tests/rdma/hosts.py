"""Servers and clients as processes on the two hosts of the emulated machine, and what its devices have counted."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.box.processes import line_of

SERVER = """
import sys
from modum.box import Server
with Server(sys.argv[1], memory=64 << 20, grace=0.5, token=sys.argv[2]) as server:
    print(server.address)
    sys.stdin.read()
"""
TOKEN = "between the two hosts"


@contextmanager
def process(
    code: str, *arguments: str, host: str | None = None, devices: str = "", **variables: str
) -> Iterator["subprocess.Popen[str]"]:
    """Run Python code on a host (None: this one) with its devices; it is killed at the end if it still runs."""
    place = ["ip", "netns", "exec", host] if host else []
    child = subprocess.Popen(
        [*place, sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "UCX_NET_DEVICES": devices, **variables},
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


@contextmanager
def server(
    devices: str, host: str | None = None, address: str = "127.0.0.1"
) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """A memory server with these devices: (its process, its address)."""
    with process(SERVER, address, TOKEN, host=host, devices=devices) as child:
        yield child, line_of(child)


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
