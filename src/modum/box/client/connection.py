"""A client's connections to one server. Requests are pipelined, and sent again after a lost connection.

The counterpart of `session.py`: what was sent and not answered when a connection broke is sent again over the next one,
with its old number, and the server answers without applying it a second time.
"""

import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol

from modum.box.auth import new_nonce, proof, proof_matches
from modum.box.protocol.frames import STAGED, Header, Op, Status, parse_header
from modum.box.protocol.limits import HEADER_BYTES, WINDOW
from modum.box.protocol.messages import Challenge, Failure, Greeting, Proof, Welcome, decode, exception_of
from modum.box.sockets import receive_exactly, receive_greeting, send_frame, send_greeting, tune, unsent
from modum.errors import AuthenticationError, ConnectionLostError, DeadlineError, ModumError, ProtocolError

SPIN_SECONDS: Final = 150e-6  # a sleeping core takes 70 us to wake up: wait so long for small replies without sleeping
NAP_SECONDS: Final = 0.02  # a carrier was seen to miss a wake-up
SMALL: Final = 64 << 10  # bytes both ways up to which a request is small
REFUSED_PATIENCE: Final = 2.0  # seconds after which a server whose port is closed counts as gone
_RETRY_PAUSE: Final = 0.05  # seconds between two tries to connect
_EMPTY: Final = memoryview(b"")


@dataclass(slots=True)
class Pending:
    """One request and what becomes of it.

    Attributes:
        header: its header; the lane fills in the number.
        payload: what is sent behind the header.
        sink: where the payload of the reply is to land; None takes any length, into `reply`.
        landed: called when it is there.
        reply: payload of the reply, if there is no sink.
        staged: what a carrier puts into the lane's ring before the header is sent.
    """

    header: Header
    payload: bytes | memoryview = b""
    sink: memoryview | None = None
    landed: Callable[[], None] | None = None
    reply: memoryview = _EMPTY
    staged: memoryview = _EMPTY

    @property
    def small(self) -> bool:
        """Whether the reply is worth waiting for without going to sleep."""
        return len(self.payload) + len(self.staged) + len(self.sink or _EMPTY) <= SMALL


class Carrier(Protocol):
    """Moves the numbers of staged requests beside the connection, into and out of the lane's ring at the server.

    It goes on by itself with what it was asked once; to ask for the same again does no harm.
    """

    @property
    def busy(self) -> bool:
        """Whether something is under way."""

    def stage(self, request: Pending) -> bool:
        """Put `request.staged` into the ring; whether it is there."""

    def fetch(self, request: Pending) -> bool:
        """Take the reply's numbers out of the ring, into `request.sink`; whether they are there."""

    def progress(self) -> bool:
        """Go on; whether something has come to its end.

        Raises:
            ModumError: it does not go on.
        """

    def arm(self) -> bool:
        """Have `fileno` become readable when there is something to do; False if there is already."""

    def fileno(self) -> int:
        """A descriptor to sleep on, once armed, for `NAP_SECONDS` at most."""


@dataclass(slots=True)
class Endpoint:
    """A server as one client dials it; `server` is filled in by the first handshake and must stay the same."""

    address: str
    family: socket.AddressFamily
    target: tuple[str, int] | str
    token: str | None
    session: bytes
    server: str = ""

    def dial(self, seconds: float) -> socket.socket:
        """A fresh connection, made within `seconds`, or OSError."""
        if isinstance(self.target, tuple):
            connection = socket.create_connection(self.target, seconds)
        else:
            connection = socket.socket(self.family, socket.SOCK_STREAM)
            try:
                connection.settimeout(seconds)
                connection.connect(self.target)
            except OSError:
                connection.close()
                raise
        tune(connection, seconds)
        return connection


class Connection:
    """One connection, with its own numbering of requests. For one thread at a time."""

    def __init__(self, endpoint: Endpoint, number: int) -> None:
        self.endpoint = endpoint
        self.number = number
        self.connection: socket.socket | None = None
        self._poll = select.poll()
        self._low_water = 1
        self._last = 0  # the newest request that was given a number
        self._acknowledged = 0

    def close(self) -> None:
        """Close the connection; the server still knows the lane."""
        if self.connection is not None:
            self._poll.unregister(self.connection)
            self.connection.close()
            self.connection = None

    @property
    def clean(self) -> bool:
        """Whether every request was answered: only then may the lane be used again."""
        return self._acknowledged == self._last

    @property
    def lost(self) -> bool:
        """Whether the connection of an idle lane has ended."""
        return self.connection is not None and any(event != select.POLLOUT for _, event in self._poll.poll(0))

    def connect(self, patience: float, phase: object, *, risky: bool = False) -> Welcome:
        """Connect and authenticate, trying again for `patience` seconds.

        Args:
            patience: seconds.
            phase: what for; its text stands in errors.
            risky: requests were sent and not answered; the server must still know the lane.

        Raises:
            AuthenticationError: one side does not hold the other's token.
            ConnectionLostError: the server is gone, was restarted, or has forgotten what it did for this client.
            DeadlineError: it could not be reached in time.
        """
        self.close()
        start = time.monotonic()
        while True:
            left = start + patience - time.monotonic()
            try:
                connection = self.endpoint.dial(max(left, 0.01))
                try:
                    welcome = self._shake_hands(connection, risky)
                    tune(connection)
                except BaseException:
                    connection.close()
                    raise
                break
            except ModumError:
                raise
            except OSError as error:
                waited = time.monotonic() - start
                gone = isinstance(error, ConnectionRefusedError) and waited > REFUSED_PATIENCE
                if gone or left <= _RETRY_PAUSE:
                    raise (ConnectionLostError if gone else DeadlineError)(
                        f"{phase}: memory server {self.endpoint.address} could not be reached for {waited:.1f} s:"
                        f" {error}"
                    ) from None
                time.sleep(_RETRY_PAUSE)
        self.connection = connection
        self._low_water = 1
        self._poll.register(connection, select.POLLIN)
        return welcome

    def _shake_hands(self, connection: socket.socket, risky: bool) -> Welcome:
        endpoint = self.endpoint
        nonce = new_nonce()
        send_greeting(connection, Op.GREET, Greeting(nonce))
        _, data = receive_greeting(connection, Op.GREET)
        challenge = decode(data, Challenge)
        if challenge.token_required and not endpoint.token:
            raise AuthenticationError(
                f"memory server {endpoint.address} wants a token. HINT: export MODUM_TOKEN=... as for the server, which"
                " modum.connect and the commands take; Box.connect has an argument token"
            )
        if endpoint.token and not challenge.token_required:
            raise AuthenticationError(
                f"memory server {endpoint.address} has no token, so it cannot show that it is the right one."
                " HINT: start it with the same MODUM_TOKEN, or give no token here (unset MODUM_TOKEN)"
            )
        if endpoint.server not in ("", challenge.server):
            raise ConnectionLostError(f"memory server {endpoint.address} was restarted: what it held is lost")
        claim = (endpoint.session, self.number, nonce, challenge.nonce)
        answer = Proof(endpoint.session, self.number, self._acknowledged, proof(endpoint.token, "client", *claim))
        send_greeting(connection, Op.PROVE, answer)
        header, data = receive_greeting(connection, Op.PROVE)
        if header.status is not Status.OK:
            raise exception_of(decode(data, Failure), endpoint.address)
        welcome = decode(data, Welcome)
        if not proof_matches(welcome.proof, proof(endpoint.token, "server", *claim)):
            raise AuthenticationError(f"{endpoint.address} is not the memory server: it does not hold the token")
        if risky and not welcome.resumed:
            raise ConnectionLostError(
                f"memory server {endpoint.address} had given this client up: it is not known whether the last request"
                " was applied"
            )
        endpoint.server = challenge.server
        return welcome

    def transact(
        self, requests: Iterable[Pending], patience: float, phase: object, carrier: Carrier | None = None
    ) -> None:
        """Send requests, up to a window of them ahead of the replies, and take the replies.

        Args:
            requests: in order; taken one by one as the window allows.
            patience: seconds without any progress after which to give up.
            phase: what for; its text stands in errors.
            carrier: for staged requests. After an error it may be busy still.

        Raises:
            ModumError, ValueError: the first failure that the server reported; the requests before it were applied.
            DeadlineError, ConnectionLostError: the server does not answer. What was not answered may have been applied.
        """
        source = iter(requests)
        pending: deque[Pending] = deque()
        answered: deque[Header] = deque()  # of the first ones that are pending
        failure: Exception | None = None
        if self.lost:
            self.close()  # while it was idle: nothing was under way
        flow = _Flow((), carrier)
        # a ring that the server made anew is empty, so a lane with one cannot be begun again either
        sent, expired = carrier is not None, False
        spin = 0.0
        deadline = time.monotonic() + patience
        while True:
            while len(pending) < WINDOW and failure is None and (request := next(source, None)) is not None:
                self._last += 1
                request.header.sequence = self._last
                pending.append(request)
                flow.queue.append(request)
                if carrier is not None:
                    carrier.stage(request)
            if not pending:
                break
            try:
                if self.connection is None:
                    self.connect(max(deadline - time.monotonic(), 0.01), phase, risky=sent)
                    flow = _Flow(pending, carrier)
                    answered.clear()
                assert self.connection is not None
                sent = True
                flow.progress = carrier is not None and carrier.progress()
                flow.send(self.connection)
                while len(answered) < len(pending) and (
                    header := flow.receive(self.connection, pending[len(answered)])
                ):
                    if header.status is Status.REFUSED:
                        raise exception_of(decode(pending[len(answered)].reply, Failure), self.endpoint.address)
                    if carrier is not None and header.flags & STAGED:
                        carrier.fetch(pending[len(answered)])
                    answered.append(header)
                    failure = self._settle(pending, answered, carrier, failure)
                failure = self._settle(pending, answered, carrier, failure)
                now = time.monotonic()
                if flow.progress:
                    deadline = now + patience
                    quick = pending and (pending[0].small or (carrier is not None and carrier.busy))
                    spin = now + SPIN_SECONDS if quick else now
                    expired = False
                    continue
                if now < spin:
                    continue
                if expired:
                    raise DeadlineError(
                        f"{phase}: memory server {self.endpoint.address} did not answer for {patience:g} s"
                    )
                expired = not self._sleep(flow, carrier, deadline - now) and time.monotonic() >= deadline
            except ModumError:
                self.close()
                raise
            except OSError:
                self.close()  # and connect again, in the next round
        if failure is not None:
            raise failure

    def _settle(
        self, pending: deque[Pending], answered: deque[Header], carrier: Carrier | None, failure: Exception | None
    ) -> Exception | None:
        """Take leave of the first requests, as far as they were answered and their numbers are here."""
        while answered:
            request, header = pending[0], answered[0]
            if carrier is not None and header.flags & STAGED and not carrier.fetch(request):
                break
            if header.status is Status.FAILED:
                failure = failure or exception_of(decode(request.reply, Failure), self.endpoint.address)
            elif request.landed:
                request.landed()
            self._acknowledged = request.header.sequence
            pending.popleft()
            answered.popleft()
        return failure

    def _sleep(self, flow: "_Flow", carrier: Carrier | None, seconds: float) -> bool:
        """Wait until something can be done; whether there is."""
        assert self.connection is not None
        events = select.POLLIN | (select.POLLOUT if flow.unsent else 0)
        self._wake_at(flow.due)
        if carrier is None or not carrier.busy:
            self._poll.modify(self.connection, events)
            return bool(self._poll.poll(max(0.0, seconds) * 1000))
        if not carrier.arm():
            return True
        both = select.poll()
        both.register(self.connection, events)
        both.register(carrier.fileno(), select.POLLIN)
        return bool(both.poll(min(max(0.0, seconds), NAP_SECONDS) * 1000))

    def _wake_at(self, nbytes: int) -> None:
        """Have the kernel wake this thread when so much has come, not for every packet of it."""
        if nbytes != self._low_water:
            assert self.connection is not None
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, nbytes)
            self._low_water = nbytes

    def take_descriptor(self, segment: int, patience: float, phase: object) -> int:
        """Have the server pass a descriptor of a segment's memory; only over a Unix socket. The caller closes it.

        Raises:
            BufferNotFoundError: the segment is gone.
            ConnectionLostError: the server is gone.
        """
        if self.connection is None:
            self.connect(patience, phase)
        assert self.connection is not None
        self._last += 1
        try:
            send_frame(self.connection, Header(Op.ATTACH, self._last, segment=segment))
            data, descriptors, _, _ = socket.recv_fds(self.connection, HEADER_BYTES, 1)
            if len(data) < HEADER_BYTES:
                raise ConnectionError("the connection has ended")
            header = parse_header(data)
            payload = memoryview(bytearray(header.payload))
            receive_exactly(self.connection, payload)
        except OSError as error:
            self.close()
            raise ConnectionLostError(f"{phase}: memory server {self.endpoint.address} is gone: {error}") from None
        self._acknowledged = self._last
        if header.status is not Status.OK:
            raise exception_of(decode(payload, Failure), self.endpoint.address)
        return descriptors[0]


class _Flow:
    """One connection's progress: what is still to be sent, and what has come of the next reply. Never blocks."""

    def __init__(self, queue: Iterable[Pending], carrier: Carrier | None) -> None:
        self.queue = deque(queue)
        self._carrier = carrier
        self.progress = False
        self._parts: list[bytes | memoryview] = []
        self._start = memoryview(bytearray(HEADER_BYTES))
        self._header: Header | None = None
        self._target = self._start
        self._have = 0

    @property
    def unsent(self) -> bool:
        """Whether something waits until the connection takes more."""
        return bool(self._parts)

    @property
    def due(self) -> int:
        """Bytes that the next step of receiving needs."""
        return len(self._target) - self._have

    def send(self, connection: socket.socket) -> None:
        """Send what the connection takes now."""
        while self._parts or self.queue:
            if not self._parts:
                if self._carrier is not None and not self._carrier.stage(self.queue[0]):
                    return
                request = self.queue.popleft()
                self._parts = [request.header.pack(), request.payload]
            try:
                sent = connection.sendmsg(self._parts, (), socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            self.progress = True
            self._parts = [] if sent == sum(map(len, self._parts)) else unsent(self._parts, sent)

    def receive(self, connection: socket.socket, request: Pending) -> Header | None:
        """Take what has come; the header of the reply to `request` once all of it is there.

        Raises:
            ProtocolError: it is no reply to `request`.
            ConnectionError: the connection has ended.
        """
        while True:
            while self._have < len(self._target):
                try:
                    count = connection.recv_into(self._target[self._have :], 0, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    return None
                if not count:
                    raise ConnectionError("the connection has ended")
                self.progress = True
                self._have += count
            self._have = 0
            header, self._header = self._header, None
            if header is None:
                header = self._header = parse_header(self._start)
                self._target = self._where(header, request)
                continue
            self._target = self._start
            return header

    @staticmethod
    def _where(header: Header, request: Pending) -> memoryview:
        """Memory for the payload that `header` announces."""
        if header.status is not Status.REFUSED and header.sequence != request.header.sequence:
            raise ProtocolError(f"reply to request {header.sequence} where {request.header.sequence} was due")
        if header.status is Status.OK and request.sink is not None and not header.flags & STAGED:
            if header.payload != len(request.sink):
                raise ProtocolError(f"reply of {header.payload} bytes where {len(request.sink)} were due")
            return request.sink
        request.reply = memoryview(bytearray(header.payload))
        return request.reply


class ConnectionPool:
    """The connections of one client to one server: as many as it has threads that ask at the same time."""

    def __init__(self, endpoint: Endpoint, first: int = 0) -> None:
        self.endpoint = endpoint
        self._next = first
        self._idle: list[Connection] = []
        self._mutex = threading.Lock()
        self._closed = False

    @contextmanager
    def lane(self) -> Iterator[Connection]:
        """An idle connection, or a new one; it comes back unless it was left in the middle of something."""
        with self._mutex:
            if self._closed:
                raise ConnectionLostError("this box was closed")
            if self._idle:
                lane = self._idle.pop()
            else:
                lane = Connection(self.endpoint, self._next)
                self._next += 1
        try:
            yield lane
        finally:
            with self._mutex:
                if lane.clean and not self._closed:
                    self._idle.append(lane)
                else:
                    lane.close()

    def check(self, phase: object) -> None:
        """Look whether the server is still there, without a word to it; for connections that are never cut.

        Raises:
            ConnectionLostError: it is gone.
        """
        with self._mutex:
            if self._idle and self._idle[-1].lost:
                raise ConnectionLostError(f"{phase}: memory server {self.endpoint.address} is gone")

    def close(self) -> None:
        """Close all; a lane in use is closed by its user."""
        with self._mutex:
            self._closed = True
            for lane in self._idle:
                lane.close()
            self._idle.clear()
