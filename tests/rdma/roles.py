"""What other processes do in the tests of RDMA. They are forked from one that has imported this, and no UCX yet."""

import ctypes
import os
from collections.abc import Callable
from multiprocessing.connection import Connection

import numpy as np
from tests.rdma.training import train

from modum.box import Box, Server

TOKEN = "between the two hosts"
TIMEOUT = 60.0


def take_part(role: str, here: Connection, host: str, devices: str, *arguments: str) -> None:
    """Be a server, an adder or a worker on a host ("": this one) with its devices; `here` is the way to the test."""
    os.environ["UCX_NET_DEVICES"] = devices
    if host:
        namespace = os.open(f"/run/netns/{host}", os.O_RDONLY)
        assert ctypes.CDLL(None, use_errno=True).setns(namespace, 0) == 0, os.strerror(ctypes.get_errno())
        os.close(namespace)
    roles: dict[str, Callable[..., None]] = {"server": serve, "adder": add_forever, "worker": work}
    roles[role](here, *arguments)


def serve(here: Connection, address: str) -> None:
    """A memory server, until the test lets go."""
    with Server(address, memory=64 << 20, grace=0.5, token=TOKEN) as server:
        here.send(server.address)
        here.poll(None)


def add_forever(here: Connection, address: str) -> None:
    """Adds ones to buffer b, and tells its version after each."""
    with Box.connect(address, transport="rdma", timeout=TIMEOUT) as box:
        buffer = box.open("b")
        ones = np.ones(buffer.size, np.float32)
        while True:
            buffer.add(ones)
            here.send(buffer.version)


def work(here: Connection, address: str, rank: str) -> None:
    """One of the workers that train together."""
    with Box.connect(address, token=TOKEN, timeout=TIMEOUT) as box:
        here.send(train(box, int(rank)))
