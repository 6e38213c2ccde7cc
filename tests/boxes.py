"""A memory server and clients for the tests of the update rules."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from modum.box import Box, Server


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(memory=1 << 28, grace=0.3) as server:
        yield server


@pytest.fixture
def connect(server: Server) -> Iterator[Callable[[], Box]]:
    """Makes clients of the server, each a worker of its own; all are closed at the end."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(Box.connect(server.address))


@pytest.fixture
def box(connect: Callable[[], Box]) -> Box:
    return connect()
