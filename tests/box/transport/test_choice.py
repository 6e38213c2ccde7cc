"""Which transport a client gets, and what it is told."""

import logging
from collections.abc import Iterator
from typing import Self

import pytest

from modum.box import TRANSPORTS, Box, Server
from modum.box.client.pool import ConnectionPool
from modum.box.protocol.messages import Welcome
from modum.box.transport.tcp import TcpTransport
from modum.errors import TransportError


def test_the_transport_is_chosen_or_an_error(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with Box.connect(server.address) as box:
        assert box.transports == ("local",)
    for transport in ("tcp", "local"):
        with Box.connect(server.address, transport=transport) as box:
            assert box.transports == (transport,)
    with pytest.raises(ValueError, match="'pigeon' is not one of auto, local, rdma, tcp"):
        Box.connect(server.address, transport="pigeon")
    monkeypatch.setattr("modum.box.transport.local.local_host", lambda: "another")
    with pytest.raises(TransportError, match=r"'local' cannot be used.*another machine"):
        Box.connect(server.address, transport="local")
    with Box.connect(server.address) as box:
        assert box.transports == ("tcp",)


class Broken(TcpTransport):
    """Nothing speaks against it, and it cannot be opened."""

    name = "broken"

    @classmethod
    def open(cls, connections: ConnectionPool, welcome: Welcome, *, threads: int, timeout: float) -> Self:
        raise TransportError("the cable is cut")


@pytest.fixture
def _registry_is_put_back() -> Iterator[None]:
    """The registry is as it was, in its order too: "auto" goes by it."""
    kinds = dict(TRANSPORTS)
    yield
    TRANSPORTS.clear()
    TRANSPORTS.update(kinds)


@pytest.mark.usefixtures("_registry_is_put_back")
def test_auto_takes_the_first_that_can_be_had_and_tells_what_it_passed_over(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    TRANSPORTS.clear()
    TRANSPORTS[Broken.name] = Broken
    with pytest.raises(TransportError, match=f"no transport can be used with memory server {server.address}"):
        Box.connect(server.address)
    with pytest.raises(TransportError, match="the cable is cut"):
        Box.connect(server.address, transport="broken")
    TRANSPORTS["tcp"] = TcpTransport
    caplog.set_level(logging.INFO, "modum.box")
    with Box.connect(server.address) as box:
        assert (box.transports, box.routes) == (("tcp",), ("tcp",))
    assert f"box: {server.address} not via broken, though nothing spoke against it: the cable is cut" in caplog.text
    assert f"box: {server.address} via tcp" in caplog.text
