"""What the attacks have in common: a server to attack, a way to speak its format by hand, and the verdict.

An address on the command line is attacked instead of a server of one's own; its token is taken from MODUM_TOKEN.
"""

import os
import secrets
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack

from modum.box import Box, new_token
from modum.box.auth import new_nonce, proof
from modum.box.protocol.frames import Header, Op, Status, parse_header
from modum.box.protocol.limits import HEADER_BYTES, SESSION_BYTES
from modum.box.protocol.messages import ALONE, CLIENT, Challenge, Failure, Greeting, Proof, Welcome, decode, encode
from modum.box.server.process import ServerProcesses
from modum.box.sockets import parse_address, receive_exactly, receive_greeting, send_frame, send_greeting
from modum.errors import ModumError

MEMORY = 64 << 20
"""Bytes of the pool of a server that is started here."""
ENOUGH = 256 << 20
"""Bytes that a server may take beside its pool; an attack on its memory stops there."""


class NotStoppedError(Exception):
    """The attack has worked; the text says how."""


def run(attack: Callable[[str, str | None], str], *, servers: int = 1) -> None:
    """Attack, say in one line whether it was stopped, and end with status 0 if it was, else 1.

    Args:
        attack: called with the address of a server, or several with commas between them, and the token. Returns what
            stopped it, or raises `NotStoppedError`.
        servers: how many to start if no address is given.
    """
    with ExitStack() as stack:
        if len(sys.argv) > 1:
            address, token = sys.argv[1], os.environ.get("MODUM_TOKEN")
        else:
            token = new_token()
            environment = {**os.environ, "MODUM_TOKEN": token}
            own = stack.enter_context(ServerProcesses(MEMORY, count=servers, environment=environment))
            address = ",".join(own.addresses)
        try:
            print(f"stopped: {attack(address, token)}")
        except NotStoppedError as error:
            print(f"NOT stopped: {error}")
            sys.exit(1)


def dial(address: str) -> socket.socket:
    """Return a connection that has said nothing yet."""
    return socket.create_connection(parse_address(address), 10)


def shake_hands(
    connection: socket.socket,
    token: str | None,
    session: bytes = b"",
    slot: int = 0,
    attempt: int = 1,
    incarnation: bytes = b"",
) -> Welcome:
    """Come in as a client would.

    Args:
        connection: a fresh one.
        token: of the server.
        session: to claim; by default a new one.
        slot: of the session.
        attempt: number of the connection in the slot.
        incarnation: of the slot, as far as it is known.

    Returns:
        What the server said of itself.

    Raises:
        ModumError: it did not let this client in.
        OSError: it hung up.
    """
    session, nonce = session or secrets.token_bytes(SESSION_BYTES), new_nonce()
    send_greeting(connection, Op.GREET, Greeting(nonce))
    _, data = receive_greeting(connection, Op.GREET)
    challenge = decode(data, Challenge)
    claim = (attempt, incarnation, 0, 5.0, b"")
    mine = proof(
        token, "client", challenge.server, session, slot, nonce, challenge.nonce, b"", b"", CLIENT, ALONE, *claim
    )
    send_greeting(connection, Op.PROVE, Proof(session, slot, *claim, mine))
    header, data = receive_greeting(connection, Op.PROVE)
    if header.status is not Status.OK:
        raise ModumError(decode(data, Failure).message)
    return decode(data, Welcome)


def ask(connection: socket.socket, sequence: int, request: object) -> tuple[Status, bytes]:
    """Send a request, and return how it ended and what was answered."""
    payload = encode(request)
    send_frame(connection, Header(Op.CALL, sequence, len(payload)), payload)
    return answer(connection)


def answer(connection: socket.socket) -> tuple[Status, bytes]:
    """Return the next reply: its status and its payload.

    Raises:
        ConnectionError: there is none.
    """
    start = bytearray(HEADER_BYTES)
    if not receive_exactly(connection, memoryview(start)):
        raise ConnectionError("the server hung up")
    header = parse_header(start)
    payload = bytearray(header.payload)
    receive_exactly(connection, memoryview(payload))
    return header.status, bytes(payload)


def memory_of(box: Box) -> int:
    """Return the bytes that a server on this machine has in memory, those of its buffers excepted."""
    import psutil

    memory = psutil.Process(box.statistics().servers[0].process).memory_info()
    return int(memory.rss - memory.shared)


def check_memory(box: Box, before: int, by: str, enough: int = ENOUGH) -> None:
    """Check that a server has not taken too much memory.

    Args:
        box: of the server.
        before: what `memory_of` said before the attack.
        by: what was done, for the verdict.
        enough: bytes that it may take.

    Raises:
        NotStoppedError: it has.
    """
    if (grown := memory_of(box) - before) > enough:
        raise NotStoppedError(f"the server took {grown >> 20} MiB beside its pool by {by}")
