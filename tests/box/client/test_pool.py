"""Connections are lent to one thread at a time, and numbers of slots are never used again."""

import secrets
from collections.abc import Iterator

import pytest

from modum.box import Server
from modum.box.client.endpoint import Endpoint
from modum.box.client.pending import Pending
from modum.box.client.pool import ConnectionPool
from modum.box.protocol.frames import Header, Op
from modum.box.protocol.messages import Look, Version, encode
from modum.box.sockets import parse_address
from modum.errors import BufferNotFoundError, ConnectionLostError, ProtocolError


def look() -> Pending:
    payload = encode(Look())
    return Pending(Header(Op.CALL, 0, len(payload)), payload)


@pytest.fixture
def pool(server: Server) -> Iterator[ConnectionPool]:
    endpoint = Endpoint(server.address, [parse_address(server.address)], None, secrets.token_bytes(16), 5.0)
    one = ConnectionPool(endpoint)
    yield one
    one.close()


def test_an_idle_connection_is_lent_again_and_a_busy_one_is_not(pool: ConnectionPool) -> None:
    with pool.connection(5, "test") as first:
        first.transact([look()], 5, "look")
        with pool.connection(5, "test") as second:
            assert (first.slot, second.slot) == (0, 1)
    with pool.connection(5, "test") as again:
        assert again is first


def test_a_connection_that_was_left_in_the_middle_is_settled_before_anybody_asks_again(pool: ConnectionPool) -> None:
    with pool.connection(5, "test") as first:
        first.transact([look()], 5, "look")
        with pytest.raises(ProtocolError, match="within one chunk"):
            first.transact([Pending(Header(Op.READ, 0, segment=1, count=0))], 5, "a bad request")
        assert not first.clean
        assert first.socket is None
    with pool.connection(5, "test") as again:
        assert again is first
        assert again.clean
        again.transact([look()], 5, "look")


def test_a_refused_wish_leaves_the_connection_clean_and_the_others_go_on(pool: ConnectionPool) -> None:
    payload = encode(Version(99))
    with pool.connection(5, "test") as connection:
        with pytest.raises(BufferNotFoundError, match="no segment 99"):
            connection.transact([Pending(Header(Op.CALL, 0, len(payload)), payload), look()], 5, "version")
        assert connection.clean
        connection.transact([look()], 5, "look")


def test_a_redirected_pool_goes_on_with_the_slots(pool: ConnectionPool, server: Server) -> None:
    with pool.connection(5, "test") as first:
        welcome = first.connect(5, "connect")
        assert not welcome.resumed
    nearby = pool.redirected(f"\0{welcome.local_socket}")
    with nearby.connection(5, "test") as other:
        other.transact([look()], 5, "look")
        assert other.slot == 1
        assert other.endpoint.server == server.identifier
    nearby.close()
    assert server.statistics().clients == 1


def test_a_closed_pool_lends_nothing(pool: ConnectionPool) -> None:
    with pool.connection(5, "test") as one:
        one.transact([look()], 5, "look")
        pool.close()
    assert one.socket is None
    with pytest.raises(ConnectionLostError, match="was closed"), pool.connection(5, "test"):
        pass
