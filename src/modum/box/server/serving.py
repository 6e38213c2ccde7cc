"""One connection of a memory server: who is there, then one request after the other until it ends."""

import logging
import socket
from collections.abc import Callable

from modum.box.auth import new_nonce, proof, proof_matches
from modum.box.protocol.frames import CARRIES_NUMBERS, STAGED, Header, Op, Status, check_request, parse_header
from modum.box.protocol.limits import HEADER_BYTES, SESSION_BYTES
from modum.box.protocol.messages import Challenge, Greeting, Proof, Welcome, decode, encode, failure_of
from modum.box.server.dispatch import Dispatch
from modum.box.server.sessions import Sessions, Slot
from modum.box.sockets import receive_exactly, receive_greeting, send_frame, send_greeting
from modum.errors import AuthenticationError, ModumError, ProtocolError

log = logging.getLogger("modum.server")


def shake_hands(
    connection: socket.socket,
    identifier: str,
    token: str | None,
    sessions: Sessions,
    welcome: Callable[[bytes, bool], Welcome],
) -> tuple[str, Slot]:
    """Authenticate both sides, and enter the client's connection into its session.

    Args:
        connection: a fresh one.
        identifier: of this run of the server.
        token: the job's token, or None.
        sessions: where the client is entered.
        welcome: makes the last message from the server's proof and whether the slot was known.

    Returns:
        The name of the session, and the slot.

    Raises:
        AuthenticationError: the client does not hold the token; it was told.
        ProtocolError: the client does not keep to the format, or there are too many; it was told.
        OSError: the connection ended.
    """
    try:
        _, data = receive_greeting(connection, Op.GREET)
        client_nonce = decode(data, Greeting).nonce
        nonce = new_nonce()
        send_greeting(connection, Op.GREET, Challenge(nonce, identifier, token is not None))
        _, data = receive_greeting(connection, Op.PROVE)
        answer = decode(data, Proof)
        if len(answer.session) != SESSION_BYTES:
            raise ProtocolError(f"a session has {SESSION_BYTES} bytes, not {len(answer.session)}")
        claim = (answer.session, answer.slot, client_nonce, nonce)
        if not proof_matches(answer.proof, proof(token, "client", *claim)):
            raise AuthenticationError("wrong token")
        session = answer.session.hex()
        slot, known = sessions.enter(session, answer.slot, answer.acknowledged)
        if known:
            slot.hang_up()
    except ModumError as error:
        send_greeting(connection, Op.PROVE, failure_of(error), Status.REFUSED)
        raise
    send_greeting(connection, Op.PROVE, welcome(proof(token, "server", *claim), known))
    return session, slot


def serve_slot(connection: socket.socket, session: str, slot: Slot, dispatch: Dispatch) -> None:
    """Answer the requests of one slot, until the connection ends or the client says goodbye.

    A request that breaks the wire format is answered with REFUSED, and ends it.

    Args:
        connection: after the handshake.
        session: of the client.
        slot: of the session.
        dispatch: does what is asked for.

    Raises:
        OSError: the connection broke.
    """
    start = memoryview(bytearray(HEADER_BYTES))
    replies = slot.replies
    while receive_exactly(connection, start, idle=True):
        try:
            header = parse_header(start)
            check_request(header)
            repeated = header.sequence <= replies.last
            if not repeated and header.sequence != replies.last + 1:
                raise ProtocolError(f"request {header.sequence} came after request {replies.last}")
            payload = _room(slot, header, repeated)
        except ProtocolError as error:
            _refuse(connection, error)
            return
        if header.payload and not receive_exactly(connection, payload):
            return
        if header.op is Op.ATTACH:
            dispatch.hand_over(connection, slot, header)
            continue
        try:
            if not repeated:
                replies.remember(header.sequence, dispatch.answer(session, slot, header, payload))
            reply = replies.reply_to(header.sequence)
        except ProtocolError as error:
            _refuse(connection, error)
            return
        send_frame(connection, reply.header, reply.payload)
        if slot.farewell:
            return


def _room(slot: Slot, header: Header, repeated: bool) -> memoryview:
    """Return memory for the payload of a request; where it is staged, it is there already."""
    # the room of a repeated request holds the reply that is asked for again
    if repeated or header.op >= Op.CALL:
        return memoryview(bytearray(header.payload))
    if header.flags & STAGED and header.op in CARRIES_NUMBERS:
        return slot.room(header.sequence, header.count, staged=True)
    return slot.room(header.sequence, header.payload)


def _refuse(connection: socket.socket, error: ProtocolError) -> None:
    """Say what was wrong; the caller closes the connection."""
    payload = encode(failure_of(error))
    send_frame(connection, Header(Op.CALL, 0, len(payload), status=Status.REFUSED), payload)
    log.warning("connection refused: %s", str(error))  # a record must not keep the error's frames alive
