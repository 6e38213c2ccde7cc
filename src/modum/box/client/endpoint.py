"""How one client dials a memory server, and how both show each other that they hold the token."""

import socket
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from modum.box.auth import new_nonce, proof, proof_matches
from modum.box.protocol.frames import Op, Status
from modum.box.protocol.messages import Challenge, Failure, Greeting, Proof, Welcome, decode, exception_of
from modum.box.sockets import receive_greeting, send_greeting, tune
from modum.errors import AuthenticationError, ConnectionLostError, ProtocolError

_TOKEN_HINT: Final = (
    "HINT: give the token with which the server was started (its MODUM_TOKEN, or its --token-file):"
    " export MODUM_TOKEN=..., or Box.connect(..., token=...)"
)


@dataclass(slots=True)
class Endpoint:
    """A memory server as one client dials it.

    Attributes:
        address: the server, as the user named it; it stands in errors.
        target: host and port for TCP, or the name of a Unix socket.
        token: the job's token, or None.
        session: random bytes that make the client's session its own.
        timeout: seconds without any progress after which the client's calls give up.
        others: identifiers of the other servers of the box, as far as they are known.
        box: digest of the `Join` by which the client belongs to a box.
        server: identifier of the server's run; the first handshake fills it in, and later ones must find the same.
    """

    address: str
    target: tuple[str, int] | str
    token: str | None = field(repr=False)
    session: bytes = field(repr=False)
    timeout: float
    others: Collection[str] = ()
    box: bytes = b""
    server: str = ""

    def dial(self, timeout: float) -> socket.socket:
        """Connect within `timeout` seconds.

        Args:
            timeout: seconds.

        Returns:
            The connected socket.

        Raises:
            OSError: it cannot be done; no socket is left open.
        """
        if isinstance(self.target, tuple):
            connection = socket.create_connection(self.target, timeout)
        else:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.settimeout(timeout)
                connection.connect(self.target)
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
    ) -> Welcome:
        """Authenticate both sides over a fresh connection.

        Args:
            connection: from `dial`.
            slot: which slot of the session the connection is for.
            attempt: number of this connection among those of the slot.
            incarnation: what the server called the slot; empty for a slot in which nothing was asked for yet.
            acknowledged: the last request of the slot whose reply has arrived.

        Returns:
            What the server said of itself.

        Raises:
            AuthenticationError: one side does not hold the other's token.
            ConnectionLostError: the server was restarted, or does not know the slot of this incarnation any more.
            OSError: the connection ended.
        """
        nonce = new_nonce()
        send_greeting(connection, Op.GREET, Greeting(nonce))
        _, data = receive_greeting(connection, Op.GREET)
        challenge = decode(data, Challenge)
        self._check(challenge)
        common = (challenge.server, self.session, slot, nonce, challenge.nonce)
        mine = proof(self.token, "client", *common, attempt, incarnation, acknowledged, self.timeout, self.box)
        answer = Proof(self.session, slot, attempt, incarnation, acknowledged, self.timeout, self.box, mine)
        send_greeting(connection, Op.PROVE, answer)
        header, data = receive_greeting(connection, Op.PROVE)
        if header.status is not Status.OK:
            refusal = exception_of(decode(data, Failure), self.address)
            raise (
                AuthenticationError(f"{refusal}\n{_TOKEN_HINT}")
                if isinstance(refusal, AuthenticationError)
                else refusal
            )
        welcome = decode(data, Welcome)
        theirs = proof(self.token, "server", *common, welcome.resumed, welcome.incarnation, welcome.applied)
        if not proof_matches(welcome.proof, theirs):
            raise AuthenticationError(f"{self.address} is not the memory server: it does not hold the token")
        if incarnation and (not welcome.resumed or welcome.incarnation != incarnation):
            raise ProtocolError(f"memory server {self.address} answered for another slot than the one asked for")
        self.server = challenge.server
        return welcome

    def _check(self, challenge: Challenge) -> None:
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
        if challenge.server in self.others:
            raise ValueError(f"memory server {self.address} stands in the list twice, under other names maybe")
        if self.server not in ("", challenge.server):
            raise ConnectionLostError(
                f"memory server {self.address} was restarted: what it held is lost\n"
                "HINT: start the job again, from saved weights"
            )
