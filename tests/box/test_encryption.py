"""What somebody between two hosts can do to an encrypted connection: end it, and nothing else."""

import socket
import threading
from collections.abc import Iterator
from typing import get_args

import numpy as np
import pytest
from tests.box.acts import add, difference, exchange
from tests.box.interfering import Interference, InterferingProxy

from modum.box import Box, Server, new_token
from modum.box.protocol.frames import Op
from modum.box.protocol.limits import CHUNK, RECORDS_PER_KEY
from modum.box.protocol.messages import Challenge, Greeting, decode
from modum.box.sealed import Agreement, ForgedError, Sealed
from modum.box.sockets import parse_address, receive_exactly, receive_greeting, send_greeting
from modum.errors import AuthenticationError, ProtocolError

TOKEN = new_token()
DEEDS = ("change", "replay", "drop", "reorder", "truncate")


@pytest.fixture
def sealed_server() -> Iterator[Server]:
    with Server(memory=256 << 20, grace=60, token=TOKEN, encrypt=True) as server:
        yield server


def connect(address: str, timeout: float = 10) -> Box:
    return Box.connect(address, token=TOKEN, transport="tcp", timeout=timeout)


@pytest.mark.parametrize("what", DEEDS)
@pytest.mark.parametrize("direction", ["up", "down"])
def test_whatever_is_done_on_the_way_every_operation_counts_once(
    sealed_server: Server, direction: str, what: str
) -> None:
    assert direction in get_args(Interference.__annotations__["direction"])
    for act in (exchange, difference, add) if direction == "up" else (exchange, difference):
        plan = Interference(direction, what, 3 * CHUNK // 2)  # type: ignore[arg-type]
        with InterferingProxy(sealed_server.address, plan) as proxy:
            with connect(proxy.address) as box:
                act(box)
                box.delete("b")
            assert not proxy.left, "it did not come to interfere"


def test_without_encryption_the_same_change_goes_unnoticed() -> None:
    with (
        Server(memory=256 << 20, token=TOKEN) as server,
        InterferingProxy(server.address, Interference("up", "change", CHUNK)) as proxy,
        connect(proxy.address) as box,
    ):
        buffer = box.create("b", CHUNK // 2)
        buffer.write(np.ones(CHUNK // 2, np.float32))
        assert np.count_nonzero(buffer.read() != 1) == 1


def test_who_changes_every_connection_is_named(sealed_server: Server) -> None:
    plan = Interference("down", "change", 5000)
    with InterferingProxy(sealed_server.address, plan, times=100) as proxy, connect(proxy.address) as box:
        buffer = box.create("b", CHUNK)
        with pytest.raises(ProtocolError, match=r"on 5 connections .* changed, left out, .*\nHINT: somebody or some"):
            buffer.read()


@pytest.mark.parametrize("encrypt", [True, False])
def test_numbers_and_names_are_seen_only_where_nothing_is_encrypted(encrypt: bool) -> None:
    numbers = np.full(1000, 1234.5, np.float32)
    with Server(token=TOKEN, encrypt=encrypt) as server, InterferingProxy(server.address) as proxy:
        with connect(proxy.address) as box:
            box.create("a secret name", 1000).write(numbers)
        for text in (numbers.tobytes(), b"a secret name"):
            assert (text in proxy.seen) is not encrypt


def test_who_stands_in_the_middle_with_keys_of_its_own_is_found_out(sealed_server: Server) -> None:
    def relay() -> None:
        near, _ = listener.accept()
        with near, socket.create_connection(parse_address(sealed_server.address)) as far:
            mine = Agreement()
            _, data = receive_greeting(near, Op.GREET)
            greeting = decode(data, Greeting)
            send_greeting(far, Op.GREET, Greeting(greeting.nonce, mine.public))
            _, data = receive_greeting(far, Op.GREET)
            theirs = decode(data, Challenge)
            send_greeting(near, Op.GREET, Challenge(theirs.nonce, theirs.server, True, mine.public))
            said = (theirs.server, greeting.nonce, theirs.nonce)
            inner = Sealed(near, "server", mine.secret(greeting.exchange), *said, greeting.exchange, mine.public)
            outer = Sealed(far, "client", mine.secret(theirs.exchange), *said, mine.public, theirs.exchange)
            for source, target in ((inner, outer), (outer, inner)):
                header, data = receive_greeting(source, Op.PROVE)
                relayed.append(len(data))
                target.sendmsg([header.pack(), bytes(data)])

    relayed: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=relay)
        thread.start()
        with pytest.raises(AuthenticationError, match="wrong token"):
            connect(f"encrypt://127.0.0.1:{listener.getsockname()[1]}")
        thread.join()
    assert len(relayed) == 2  # both ends could be read, and neither went on


def test_a_plain_client_is_told_how_to_reach_an_encrypted_server(sealed_server: Server) -> None:
    plain = sealed_server.address.removeprefix("encrypt://")
    with pytest.raises(AuthenticationError, match=rf"encrypted connections only.*encrypt://{plain}"):
        connect(plain)


def test_a_client_that_wants_encryption_goes_on_with_no_other_server() -> None:
    with Server(token=TOKEN) as server:
        with pytest.raises(AuthenticationError, match=r"does not encrypt.*modum server --encrypt"):
            connect(f"encrypt://{server.address}")
        assert server.statistics().clients == 0


def test_the_wrong_token_and_none_are_named_in_an_encrypted_handshake(sealed_server: Server) -> None:
    with pytest.raises(AuthenticationError, match="wrong token"):
        Box.connect(sealed_server.address, token=new_token(), transport="tcp")
    with pytest.raises(AuthenticationError, match="token"):
        Box.connect(sealed_server.address, transport="tcp")
    with pytest.raises(ValueError, match=r"encryption needs a token.*MODUM_TOKEN"):
        Server(encrypt=True)


def test_clients_on_the_same_machine_map_the_memory_all_the_same(sealed_server: Server) -> None:
    with Box.connect(sealed_server.address, token=TOKEN, transport="local") as box:
        exchange(box)
        assert box.servers == (sealed_server.address,)


def test_records_of_one_byte_and_of_many_arrive_and_keys_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modum.box.sealed.RECORDS_PER_KEY", 3)
    assert RECORDS_PER_KEY > 3
    near, far = socket.socketpair()
    with near, far:
        client, server = (Sealed(end, role, b"s" * 32) for end, role in ((near, "client"), (far, "server")))  # type: ignore[arg-type]
        for length in (1, 2, 64, 5000, 1, 1, 1):
            client.sendmsg([b"x" * length, b"", b"y"])
            for wanted in (b"x" * length, b"y"):
                got = memoryview(bytearray(len(wanted)))
                assert receive_exactly(server, got)
                assert got == wanted
        near.sendall(b"z" * 17)
        with pytest.raises(ForgedError):
            server.recv_into(memoryview(bytearray(1)))
