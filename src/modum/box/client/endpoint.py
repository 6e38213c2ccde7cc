"""How one client dials a memory server, and how both show each other that they hold the token."""

import socket
from dataclasses import dataclass

from modum.box.auth import new_nonce, proof, proof_matches
from modum.box.protocol.frames import Op, Status
from modum.box.protocol.messages import Challenge, Failure, Greeting, Proof, Welcome, decode, exception_of
from modum.box.sockets import receive_greeting, send_greeting, tune
from modum.errors import AuthenticationError, ConnectionLostError


@dataclass(slots=True)
class Endpoint:
    """A memory server as one client dials it.

    Attributes:
        address: the server, as the user named it; it stands in errors.
        target: host and port for TCP, or the name of a Unix socket.
        token: the job's token, or None.
        session: random bytes that name the client.
        server: identifier of the server's run; the first handshake fills it in, and later ones must find the same.
    """

    address: str
    target: tuple[str, int] | str
    token: str | None
    session: bytes
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

    def shake_hands(self, connection: socket.socket, slot: int, acknowledged: int, *, risky: bool) -> Welcome:
        """Authenticate both sides over a fresh connection.

        Args:
            connection: from `dial`.
            slot: which slot of the session the connection is for.
            acknowledged: the last request of the slot whose reply has arrived.
            risky: requests were sent and not answered, so that the server must still know the slot.

        Returns:
            What the server said of itself.

        Raises:
            AuthenticationError: one side does not hold the other's token.
            ConnectionLostError: the server was restarted, or has forgotten what it did for this client.
            OSError: the connection ended.
        """
        nonce = new_nonce()
        send_greeting(connection, Op.GREET, Greeting(nonce))
        _, data = receive_greeting(connection, Op.GREET)
        challenge = decode(data, Challenge)
        self._check(challenge)
        claim = (self.session, slot, nonce, challenge.nonce)
        answer = Proof(self.session, slot, acknowledged, proof(self.token, "client", *claim))
        send_greeting(connection, Op.PROVE, answer)
        header, data = receive_greeting(connection, Op.PROVE)
        if header.status is not Status.OK:
            raise exception_of(decode(data, Failure), self.address)
        welcome = decode(data, Welcome)
        if not proof_matches(welcome.proof, proof(self.token, "server", *claim)):
            raise AuthenticationError(f"{self.address} is not the memory server: it does not hold the token")
        if risky and not welcome.resumed:
            raise ConnectionLostError(
                f"memory server {self.address} had given this client up: it is not known whether the last request"
                " was applied"
            )
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
        if self.server not in ("", challenge.server):
            raise ConnectionLostError(f"memory server {self.address} was restarted: what it held is lost")
