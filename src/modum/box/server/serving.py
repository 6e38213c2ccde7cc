"""One connection of a memory server: who is there, then one request after the other until it ends."""

import logging
import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from modum.box.auth import new_nonce, proof, proof_matches, public_name
from modum.box.protocol.frames import CARRIES_NUMBERS, STAGED, Header, Op, Status, check_request, parse_header
from modum.box.protocol.limits import HEADER_BYTES, SESSION_BYTES
from modum.box.protocol.messages import (
    ALONE,
    CLIENT,
    Challenge,
    Greeting,
    Proof,
    Welcome,
    decode,
    encode,
    failure_of,
)
from modum.box.server.core import Core
from modum.box.server.performing import Send
from modum.box.server.sessions import Caller, Slot
from modum.box.sockets import Stream, receive_exactly, receive_greeting, send_frame, send_greeting
from modum.box.tokens import Token, Tokens
from modum.errors import AuthenticationError, ElsewhereError, ModumError, PoolFullError, ProtocolError

if TYPE_CHECKING:
    from modum.box.sealed import Sealed

log = logging.getLogger("modum.server")


class Hall(Protocol):
    """Where a connection goes when it is known what it comes for."""

    replicated: bool
    """Whether each place of the box is served by whichever server has it now."""

    def core(self, place: int) -> Core | None:
        """Return what serves a place of the box here; None where another server does, or nobody."""

    def welcome(
        self, core: Core, proof: bytes, resumed: bool, incarnation: bytes, applied: int, token: Token
    ) -> Welcome:
        """Return the last message of the handshake."""

    def peer(self, greeting: Greeting, connection: Stream) -> None:
        """Serve another server of the box, until the connection ends.

        Args:
            greeting: says what it comes for.
            connection: after the handshake.

        Raises:
            ProtocolError: there are no others.
        """


class Service:
    """What is common to all connections of a server.

    Args:
        tokens: that clients may hold.
        hall: says who serves a connection.
        encrypt: take only encrypted connections over TCP.
    """

    def __init__(self, tokens: Tokens, hall: Hall, *, encrypt: bool = False) -> None:
        self._tokens = tokens
        self._hall = hall
        self._encrypt = encrypt

    def serve(self, connection: socket.socket, known: Callable[[], None]) -> None:
        """Shake hands, then answer requests until the connection ends, is replaced or says goodbye.

        Args:
            connection: a fresh one.
            known: called once the client has shown that it may come in.

        Raises:
            ModumError: the client does not hold the token, or does not keep to the format; it was told.
            OSError: the connection broke.
        """
        client = self._meet(connection)
        stream = client.stream
        known()
        if client.core is None:
            ours = proof(client.token.token, "server", *client.common, False, b"", 0)
            send_greeting(stream, Op.PROVE, Welcome(ours, False, b"", 0, "", ""))
            client.take_last_keys()
            self._hall.peer(client.greeting, stream)
            return
        name = public_name(client.proof.session)
        with ExitStack() as stack:
            try:
                slot, resumed = stack.enter_context(client.core.sessions.entered(name, client.proof, stream))
                if slot.session.token not in (None, client.token):
                    raise AuthenticationError("this client came with another token before")
                slot.session.token = client.token
            except ModumError as error:
                send_greeting(stream, Op.PROVE, failure_of(error), Status.REFUSED)
                raise
            caller = Caller(slot, stream)
            # an older connection of the slot was hung up: its last request ends first, one way or the other
            with slot.serving:
                caller.check()
                applied = slot.replies.last
                ours = proof(client.token.token, "server", *client.common, resumed, slot.incarnation, applied)
                welcome = self._hall.welcome(client.core, ours, resumed, slot.incarnation, applied, client.token)
                client.core.performer.settle(caller)
                send_greeting(stream, Op.PROVE, welcome)
                client.take_last_keys()
                with client.core.performer.sending(caller, stream) as send:
                    serve_slot(stream, caller, client.core, send)

    def _meet(self, connection: socket.socket) -> "_Client":
        """Take the client's proof that it holds the token."""
        stream: Stream = connection
        secret, said = b"", tuple[str | bytes, ...]()
        try:
            _, data = receive_greeting(connection, Op.GREET)
            greeting = decode(data, Greeting)
            core = self._hall.core(greeting.place) if greeting.purpose == CLIENT else None
            identifier = core.identifier if core else ""
            place = greeting.place if self._hall.replicated else ALONE
            nonce = new_nonce()
            agreement = None
            if self._encrypt and connection.family != socket.AF_UNIX:
                from modum.box.sealed import Agreement, Sealed  # only who encrypts needs the package

                agreement = Agreement()
            ours = agreement.public if agreement else b""
            send_greeting(connection, Op.GREET, Challenge(nonce, identifier, self._tokens.required, ours, place))
            if core is None and greeting.purpose == CLIENT:
                raise ElsewhereError(f"a client came for place {greeting.place}, which is not served here")
            keys = (greeting.exchange, ours)
            if agreement:
                if not greeting.exchange:
                    raise AuthenticationError("this server takes encrypted connections only")
                secret = agreement.secret(greeting.exchange)
                said = (identifier, greeting.nonce, nonce, *keys)
                stream = Sealed(connection, "server", secret, *said)
            _, data = receive_greeting(stream, Op.PROVE)
            answer = decode(data, Proof)
            if len(answer.session) != SESSION_BYTES:
                raise ProtocolError(f"a session has {SESSION_BYTES} bytes, not {len(answer.session)}")
            where = (greeting.purpose, place)
            common = (identifier, answer.session, answer.slot, greeting.nonce, nonce, *keys, *where)
            claim = (answer.attempt, answer.incarnation, answer.acknowledged, answer.timeout, answer.box)
            token = self._tokens.find(greeting.key)
            if token is None or not proof_matches(answer.proof, proof(token.token, "client", *common, *claim)):
                raise AuthenticationError("wrong token")
            self._tokens.check(token)
            if greeting.purpose != CLIENT and (token.job or token.read_only):
                raise AuthenticationError("other servers of the box need its own token")
        except ElsewhereError:
            raise  # the challenge says so
        except ModumError as error:
            send_greeting(stream, Op.PROVE, failure_of(error), Status.REFUSED)
            raise
        return _Client(greeting, core, answer, token, common, stream, secret, said)


@dataclass(frozen=True, slots=True)
class _Client:
    """Somebody who holds the token, whom it wants, and what both proofs of its handshake say."""

    greeting: Greeting
    core: Core | None
    proof: Proof
    token: Token
    common: tuple[str | bytes | int, ...]
    stream: Stream
    secret: bytes
    said: tuple[str | bytes, ...]

    def take_last_keys(self) -> None:
        """Seal an encrypted connection with keys that come from the token, too."""
        if self.said:
            cast("Sealed", self.stream).derive_keys(self.secret + self.token.token.encode(), *self.said)


def serve_slot(connection: Stream, caller: Caller, core: Core, send: Send) -> None:
    """Answer the requests of one slot, until the connection ends or the client says goodbye.

    A request that breaks the wire format, or for which there is no memory, is answered with REFUSED, and ends it.

    Args:
        connection: after the handshake.
        caller: the slot and the connection.
        core: has somebody do what is asked for.
        send: sends the replies.

    Raises:
        OSError: the connection broke, or a newer one has come.
    """
    slot = caller.slot
    start = memoryview(bytearray(HEADER_BYTES))
    replies = slot.replies
    while receive_exactly(connection, start, idle=True):
        try:
            header = parse_header(start)
            check_request(header)
            if header.op is Op.ACKNOWLEDGE:
                slot.settle(header.sequence)
                core.sessions.journal.settled(slot, header.sequence)
                continue
            slot.begin()
            repeated = header.sequence <= replies.last
            if not repeated and header.sequence != replies.last + 1:
                raise ProtocolError(f"request {header.sequence} came after request {replies.last}")
            payload = _room(slot, header, repeated)
        except (PoolFullError, ProtocolError) as error:
            _refuse(connection, error)
            return
        if header.payload and not receive_exactly(connection, payload):
            return
        caller.check()
        if header.op is Op.ATTACH:
            core.dispatch.hand_over(connection, caller, header, repeated)
            continue
        try:
            act = core.performer.recall if repeated else core.performer.perform
            reply, record = act(caller, header, payload)
        except ProtocolError as error:
            _refuse(connection, error)
            return
        send(reply, record)
        if reply.farewell:
            return


def _room(slot: Slot, header: Header, repeated: bool) -> memoryview:
    """Return memory for the payload of a request; where it is staged, it is there already."""
    # the room of a repeated request holds the reply that is asked for again
    if repeated or header.op >= Op.CALL:
        return memoryview(bytearray(header.payload))
    if header.flags & STAGED and header.op in CARRIES_NUMBERS:
        return slot.room(header.sequence, header.count, staged=True)
    return slot.room(header.sequence, header.payload)


def _refuse(connection: Stream, error: ModumError) -> None:
    """Say what was wrong; the caller closes the connection."""
    payload = encode(failure_of(error))
    send_frame(connection, Header(Op.CALL, 0, len(payload), status=Status.REFUSED), payload)
    log.warning("connection refused: %s", str(error))  # a record must not keep the error's frames alive
