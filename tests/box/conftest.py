"""Boxes for the tests: real servers in this process, over every transport and with one or several servers."""

import os
from collections.abc import Iterator

import pytest

from modum.box import TRANSPORTS, Box, Server
from modum.testing.transport import FULL, QUICK, fresh_box

EMULATED = "SOFTROCE" in os.environ  # in a machine that is emulated in software everything takes ten times as long
AVAILABLE = [name for name, kind in TRANSPORTS.items() if not kind.why_not()]  # rdma needs a device
SCALE = QUICK if EMULATED else FULL
MANY = SCALE.elements


@pytest.fixture
def server() -> Iterator[Server]:
    """One memory server with a quick grace."""
    with Server(memory=256 << 20, grace=0.2) as one:
        yield one


@pytest.fixture
def patient_server() -> Iterator[Server]:
    """One memory server that waits for clients who come back, however slow the machine is."""
    with Server(memory=256 << 20, grace=60) as one:
        yield one


@pytest.fixture(
    params=[(transport, count) for transport in AVAILABLE for count in (1, 3)], ids=lambda p: f"{p[0]}-{p[1]}"
)
def box(request: pytest.FixtureRequest) -> Iterator[Box]:
    """A box over each transport, of one server and of three."""
    transport, count = request.param
    with fresh_box(transport, count, timeout=10) as client:
        yield client


@pytest.fixture(params=AVAILABLE)
def client(request: pytest.FixtureRequest, server: Server) -> Iterator[Box]:
    """A box of the one server over each transport."""
    with Box.connect(server.address, transport=request.param, timeout=10) as one:
        yield one
