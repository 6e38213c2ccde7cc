"""How one client dials a memory server, and how both show each other that they hold the token."""

import socket
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

from modum.box.auth import new_nonce, proof, proof_matches, token_key
from modum.box.protocol.frames import Op, Status
from modum.box.protocol.messages import (
    ALONE,
    CLIENT,
    Challenge,
    Failure,
    Greeting,
    Proof,
    Welcome,
    decode,
    exception_of,
)
from modum.box.sockets import ENCRYPT, Stream, is_encrypted, receive_greeting, send_greeting, tune
from modum.errors import AuthenticationError, ConnectionLostError, ElsewhereError, ProtocolError

TURN_SECONDS: Final = 1.0
"""Seconds for a try to reach one of several servers."""
_TOKEN_HINT: Final = (
    "HINT: give the token with which the server was started (its MODUM_TOKEN, or its --token-file):"
    " export MODUM_TOKEN=..., or Box.connect(..., token=...)"
)


@dataclass(slots=True)
class Endpoint:
    """A memory server as one client dials it.

    Attributes:
        address: the server, as the user named it; it stands in errors.
        targets: where the server may be: host and port for TCP, or the name of a Unix socket. With replicas these are
            all servers of the box, its own place first.
        token: the job's token, or None.
        session: random bytes that make the client's session its own.
        timeout: seconds without any progress after which the client's calls give up.
        others: identifiers of the other servers of the box, as far as they are known.
        box: digest of the `Join` by which the client belongs to a box.
        place: of the server in the box.
        purpose: of the connections.
        server: identifier of the server's run; the first handshake fills it in, and later ones must find the same.
        replicated: whether other servers stand in for it; the first handshake fills it in.
        at: index of the target that is tried next.
    """

    address: str
    targets: Sequence[tuple[str, int] | str]
    token: str | None = field(repr=False)
    session: bytes = field(repr=False)
    timeout: float
    others: Collection[str] = ()
    box: bytes = b""
    place: int = 0
    purpose: str = CLIENT
    server: str = ""
    replicated: bool = False
    at: int = 0

    def turn(self) -> bool:
        """Try the next target from now on, and return whether all were tried since the first."""
        self.at = (self.at + 1) % len(self.targets)
        return self.at == 0

    def dial(self, timeout: float) -> socket.socket:
        """Connect within `timeout` seconds.

        Args:
            timeout: seconds.

        Returns:
            The connected socket.

        Raises:
            OSError: it cannot be done; no socket is left open.
        """
        target = self.targets[self.at]
        if len(self.targets) > 1:
            timeout = min(timeout, TURN_SECONDS)
        if isinstance(target, tuple):
            connection = socket.create_connection(target, timeout)
        else:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.settimeout(timeout)
                connection.connect(target)
            except OSError:
                connection.close()
                raise
        tune(connection, timeout)
        return connection

    def shake_hands(
        self,
        connection: socket.socket,
        slot: int,
        *,
        attempt: int,
        incarnation: bytes,
        acknowledged: int,
    ) -> tuple[Welcome, Stream]:
        """Authenticate both sides over a fresh connection.

        Args:
            connection: from `dial`.
            slot: which slot of the session the connection is for.
            attempt: number of this connection among those of the slot.
            incarnation: what the server called the slot; empty for a slot in which nothing was asked for yet.
            acknowledged: the last request of the slot whose reply has arrived.

        Returns:
            What the server said of itself, and the connection, from now on encrypted if that is asked for.

        Raises:
            AuthenticationError: one side does not hold the other's token, or wants encryption and the other does not.
            ElsewhereError: this target does not serve the place.
            ConnectionLostError: the server was restarted, or does not know the slot of this incarnation any more.
            OSError: the connection ended.
        """
        nonce = new_nonce()
        agreement = None
        if self.encrypts:
            from modum.box.sealed import Agreement, Sealed  # only who encrypts needs the package

            agreement = Agreement()
        public = agreement.public if agreement else b""
        key = token_key(self.token) if self.token else b""
        greeting = Greeting(nonce, public, key, self.place, self.purpose)
        send_greeting(connection, Op.GREET, greeting)
        _, data = receive_greeting(connection, Op.GREET)
        challenge = decode(data, Challenge)
        self._check(challenge)
        keys = (greeting.exchange, challenge.exchange)
        where = (self.purpose, challenge.place)
        common = (challenge.server, self.session, slot, nonce, challenge.nonce, *keys, *where)
        stream: Stream = connection
        if agreement:
            secret = agreement.secret(challenge.exchange)
            said = (challenge.server, nonce, challenge.nonce, *keys)
            stream = sealed = Sealed(connection, "client", secret, *said)
        mine = proof(self.token, "client", *common, attempt, incarnation, acknowledged, self.timeout, self.box)
        answer = Proof(self.session, slot, attempt, incarnation, acknowledged, self.timeout, self.box, mine)
        send_greeting(stream, Op.PROVE, answer)
        header, data = receive_greeting(stream, Op.PROVE)
        if header.status is not Status.OK:
            refusal = exception_of(decode(data, Failure), self.address)
            raise (
                AuthenticationError(f"{refusal}\n{_TOKEN_HINT}")
                if isinstance(refusal, AuthenticationError) and "HINT" not in str(refusal)
                else refusal
            )
        welcome = decode(data, Welcome)
        theirs = proof(self.token, "server", *common, welcome.resumed, welcome.incarnation, welcome.applied)
        if not proof_matches(welcome.proof, theirs):
            raise AuthenticationError(f"{self.address} is not the memory server: it does not hold the token")
        if incarnation and (not welcome.resumed or welcome.incarnation != incarnation):
            raise ProtocolError(f"memory server {self.address} answered for another slot than the one asked for")
        self.server = challenge.server
        if agreement:
            sealed.derive_keys(secret + (self.token or "").encode(), *said)
        return welcome, stream

    @property
    def encrypts(self) -> bool:
        """Whether connections are encrypted: those over TCP, if the address says so."""
        return is_encrypted(self.address) and isinstance(self.targets[self.at], tuple)

    def _check(self, challenge: Challenge) -> None:
        if self.replicated and challenge.place == ALONE:
            raise ElsewhereError(f"a server that answers for memory server {self.address} is none of its box")
        self.replicated = challenge.place != ALONE
        if not self.replicated and len(self.targets) > 1:
            first, self.at, self.targets = self.at == 0, 0, self.targets[:1]  # nobody stands in for anybody
            if not first:
                raise ElsewhereError(f"memory server {self.address} has its place alone")
        if challenge.place not in (self.place, ALONE):
            raise ProtocolError(f"memory server {self.address} answered for place {challenge.place}")
        if not challenge.server and self.purpose == CLIENT:
            raise ElsewhereError(f"no server has taken the place of memory server {self.address} yet")
        if challenge.token_required and not self.token:
            raise AuthenticationError(
                f"memory server {self.address} wants a token. HINT: export MODUM_TOKEN=... as for the server, which"
                " modum.connect and the commands take; Box.connect has an argument token"
            )
        if self.token and not challenge.token_required:
            raise AuthenticationError(
                f"memory server {self.address} has no token, so it cannot show that it is the right one."
                " HINT: start it with the same MODUM_TOKEN, or give no token here (unset MODUM_TOKEN)"
            )
        if self.encrypts and not self.token:
            raise AuthenticationError(
                f"{self.address} cannot be known to be the right server without a token. HINT: export MODUM_TOKEN=..."
                " as for the server, or Box.connect(..., token=...)"
            )
        if self.encrypts and not challenge.exchange:
            plain = self.address.removeprefix(ENCRYPT)
            raise AuthenticationError(
                f"memory server {plain} does not encrypt, and {self.address} asks for that. HINT: start it with"
                f" modum server --encrypt; or, where the network can be trusted, give the address as {plain}"
            )
        if challenge.exchange and not self.encrypts:
            raise AuthenticationError(
                f"memory server {self.address} takes encrypted connections only."
                f" HINT: give the address as {ENCRYPT}{self.address} (MODUM_BOX, --box, Box.connect)"
            )
        if challenge.server in self.others:
            raise ValueError(f"memory server {self.address} stands in the list twice, under other names maybe")
        if self.server not in ("", challenge.server):
            raise ConnectionLostError(
                f"memory server {self.address} was restarted: what it held is lost\n"
                "HINT: start the job again, from saved weights"
            )
