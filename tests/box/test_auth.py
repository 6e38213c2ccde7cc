"""Who may connect, and what is never sent."""

import socket
import threading

import pytest

from modum.box import Box, Server, new_token
from modum.box.auth import check_exposure
from modum.box.protocol.frames import Op, Status
from modum.box.protocol.messages import Challenge, Failure, Greeting, Proof, Welcome, decode
from modum.box.sockets import receive_greeting, send_greeting
from modum.errors import AuthenticationError


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.5", "::", "example.org"])
def test_a_server_does_not_listen_beyond_loopback_without_a_token(host: str) -> None:
    with pytest.raises(ValueError, match=f"refusing to listen on {host} without a token.*MODUM_TOKEN"):
        Server(host)
    check_exposure(host, new_token())


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.5", "::", "example.org"])
def test_a_server_does_not_listen_beyond_loopback_with_a_token_that_can_be_guessed(host: str) -> None:
    with pytest.raises(ValueError, match=f"refusing to listen on {host} with a token of 15 .*MODUM_TOKEN") as refusal:
        Server(host, token="fifteen letters")
    assert "fifteen letters" not in str(refusal.value)
    check_exposure(host, "sixteen letters.")
    check_exposure("127.0.0.1", "short")


def test_with_a_token_it_listens_anywhere() -> None:
    token = new_token()
    with Server("0.0.0.0", token=token) as server:
        port = server.address.rpartition(":")[2]
        with Box.connect(f"127.0.0.1:{port}", token=token) as box:
            assert box.counter("c").add(1) == 0


@pytest.mark.parametrize("transport", ["local", "tcp"])
def test_only_the_right_token_comes_in(transport: str) -> None:
    token = new_token()
    with Server(token=token) as server:
        with pytest.raises(AuthenticationError, match=r"wants a token\. HINT: export MODUM_TOKEN"):
            Box.connect(server.address, transport=transport)
        with pytest.raises(AuthenticationError, match=rf"wrong token .memory server {server.address}.\nHINT: give"):
            Box.connect(server.address, transport=transport, token=new_token())
        with Box.connect(server.address, transport=transport, token=token) as box:
            assert box.transports == (transport,)


def test_a_server_without_the_token_is_not_trusted() -> None:
    with Server() as server, pytest.raises(AuthenticationError, match="cannot show that it is the right one"):
        Box.connect(server.address, token=new_token())


def test_a_server_that_only_says_it_has_the_token_is_not_trusted() -> None:
    def pretend(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            receive_greeting(connection, Op.GREET)
            send_greeting(connection, Op.GREET, Challenge(b"n" * 32, "server", True))
            _, data = receive_greeting(connection, Op.PROVE)
            seen.append(bytes(data))
            # the best it can do is to send the client's own proof back
            welcome = Welcome(decode(data, Proof).proof, False, b"i" * 8, 0, "", "")
            send_greeting(connection, Op.PROVE, welcome)

    token, seen = new_token(), list[bytes]()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=pretend, args=(listener,))
        thread.start()
        with pytest.raises(AuthenticationError, match="is not the memory server"):
            Box.connect(f"127.0.0.1:{listener.getsockname()[1]}", token=token, timeout=5)
        thread.join()
    assert token.encode() not in seen[0]


def test_a_proof_cannot_be_used_twice() -> None:
    token = new_token()
    with Server(token=token) as server:
        host, port = server.address.split(":")
        recorded = _greet(host, int(port), None)
        assert _greet(host, int(port), recorded) == b"wrong token"


def _greet(host: str, port: int, proof: bytes | None) -> bytes:
    """Shake hands with the right token and return the proof; or replay `proof`, and return what the server says."""
    from modum.box.auth import proof as prove

    with socket.create_connection((host, port), 5) as connection:
        connection.settimeout(5)
        send_greeting(connection, Op.GREET, Greeting(b"c" * 32))
        _, data = receive_greeting(connection, Op.GREET)
        challenge = decode(data, Challenge)
        claim = (challenge.server, b"s" * 16, 0, b"c" * 32, challenge.nonce, b"", b"", 1, b"", 0, 5.0, b"")
        mine = proof or prove("not the token", "client", *claim)
        send_greeting(connection, Op.PROVE, Proof(b"s" * 16, 0, 1, b"", 0, 5.0, b"", mine))
        header, data = receive_greeting(connection, Op.PROVE)
        assert header.status is Status.REFUSED
        message = decode(data, Failure).message.encode()
        return mine if proof is None else message
