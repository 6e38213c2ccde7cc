"""An ordered stream of requests to one server. They are pipelined, and sent again after a lost connection.

The counterpart of `server/sessions.py`: what was sent and not answered when a connection broke is sent again over the
next one, with its old number, and the server answers without applying it a second time.
"""

import errno
import logging
import os
import select
import socket
import time
from collections import deque
from collections.abc import Iterable
from typing import Final, cast

from modum.box.client.endpoint import Endpoint
from modum.box.client.flow import Flow
from modum.box.client.pending import NAP_SECONDS, Carrier, Pending
from modum.box.protocol.frames import STAGED, Header, Op, Status, parse_header
from modum.box.protocol.limits import CHUNK, HEADER_BYTES, REFUSED_SECONDS, WINDOW
from modum.box.protocol.messages import Failure, Welcome, decode, exception_of
from modum.box.sockets import Stream, receive_exactly, send_frame, tune
from modum.errors import (
    ConnectionLostError,
    DeadlineError,
    ElsewhereError,
    ForgottenError,
    ModumError,
    ProtocolError,
)
from modum.waiting import Deadline

log = logging.getLogger("modum.box")

_MOST_FORGERIES: Final = 5
SPIN_SECONDS: Final = 150e-6
"""How long a small reply is waited for without sleeping: a sleeping core takes 70 us to wake up."""
QUIET_SECONDS: Final = 1.5
"""Seconds without any answer after which a client asks whether another server has taken the place of this one."""
LOST_SECONDS: Final = 10.0
"""Seconds after which nobody is expected to take the place of a lost server any more."""
_RETRY_PAUSE: Final = 0.05
"""Seconds between two tries to connect."""
_OWN_LIMITS: Final = {
    errno.EMFILE: "HINT: close files and sockets, or raise this process's limit: ulimit -n",
    errno.ENFILE: "HINT: close files and sockets, or raise this machine's limit: sysctl fs.file-max",
    errno.EADDRNOTAVAIL: "HINT: if the address is right, this machine has no port left for connections to it",
}
"""Failures to connect that say nothing of the server, and what to do about them."""
_REFUSED_HINT: Final = (
    "HINT: nothing listens there: start `modum server` on that machine, or give the address that it printed"
    " (MODUM_BOX, modum run --box, modum status HOST:PORT)"
)
GONE_HINT: Final = "HINT: what it held is lost: start the memory servers and the job again, from saved weights"


class Connection:
    """One slot of the client's session, with its own numbering of requests. For one thread at a time.

    Args:
        endpoint: the server.
        slot: number of the slot.
    """

    def __init__(self, endpoint: Endpoint, slot: int) -> None:
        self.endpoint = endpoint
        self.slot = slot
        self.socket: Stream | None = None
        self._poll = select.poll()
        self._low_water = 1
        self._last = 0  # the newest request that was given a number
        self._acknowledged = 0
        self._attempts = 0
        self._incarnation = b""
        self._forgeries = 0  # one after the other, without an answer between them

    def close(self) -> None:
        """Close the socket; the server still knows the slot for a while."""
        if self.socket is not None:
            self.socket.close()
            self.socket = None

    @property
    def clean(self) -> bool:
        """Whether every request was answered: only then may the connection be used again."""
        return self._acknowledged == self._last

    @property
    def lost(self) -> bool:
        """Whether the socket of an idle connection has ended."""
        if self.socket is None or not (events := self._poll.poll(0)):
            return False
        return any(event != select.POLLOUT for _, event in events)

    def connect(self, timeout: float, phase: object, *, risky: bool = False) -> Welcome:
        """Connect and authenticate, trying again until it works or time is up.

        A slot that the server has forgotten is begun again, if nothing depends on what the server did in it.

        Args:
            timeout: seconds.
            phase: what for; its text stands in errors.
            risky: requests were sent and not answered, so that the server must still know the slot.

        Returns:
            What the server said of itself.

        Raises:
            AuthenticationError: one side does not hold the other's token.
            ConnectionLostError: the server is gone, was restarted, or has forgotten what it did for this client.
            DeadlineError: it could not be reached in time.
        """
        self.close()
        deadline = Deadline(timeout)
        while True:
            left = deadline.left
            try:
                connection = self.endpoint.dial(max(left, 0.01))
                self._attempts += 1
                try:
                    welcome, stream = self.endpoint.shake_hands(
                        connection,
                        self.slot,
                        attempt=self._attempts,
                        incarnation=self._incarnation,
                        acknowledged=self._acknowledged,
                    )
                    tune(connection)
                except BaseException:
                    connection.close()
                    raise
                break
            except ForgottenError:
                if risky:
                    raise
                self._incarnation = b""  # all that was asked for was answered: begin the slot again
            except OSError as error:
                if isinstance(error, ModumError) and not isinstance(error, ElsewhereError):
                    raise
                waited = timeout - deadline.left
                if self.endpoint.replicated:
                    gone = waited > LOST_SECONDS
                else:
                    gone = isinstance(error, ConnectionRefusedError) and waited > REFUSED_SECONDS
                if left <= _RETRY_PAUSE and error.errno in _OWN_LIMITS:
                    raise self._own_limit(phase, waited, error.errno) from None
                if gone or left <= _RETRY_PAUSE:
                    known = gone and self.endpoint.server
                    refused = error.errno == errno.ECONNREFUSED
                    hint = f"\n{GONE_HINT if known else _REFUSED_HINT}" if refused or known else ""
                    raise (ConnectionLostError if gone else DeadlineError)(
                        f"{phase}: memory server {self.endpoint.address}{' is gone: it' if known else ''}"
                        f" could not be reached for {waited:.1f} s: {error}{hint}"
                    ) from None
                if self.endpoint.turn():
                    time.sleep(_RETRY_PAUSE)
        self._incarnation = welcome.incarnation
        self.socket = stream
        self._low_water = 1
        self._poll = select.poll()  # the last one knows a socket that was closed
        self._poll.register(stream, select.POLLIN)
        return welcome

    def settle(self, timeout: float, phase: object) -> None:
        """Have the server do nothing more of what was asked for and not answered; then the connection is clean.

        What was applied stays applied. A slot that the server has forgotten is settled, too.

        Args:
            timeout: seconds.
            phase: what for; its text stands in errors.

        Raises:
            DeadlineError: the server could not be reached: requests may still be on their way to it.
            ConnectionLostError: the server is gone.
        """
        try:
            applied = self.connect(timeout, phase, risky=True).applied
        except ForgottenError:
            self._incarnation = b""
            self._acknowledged = self._last
        else:
            self._last = self._acknowledged = applied

    def transact(
        self, requests: Iterable[Pending], timeout: float, phase: object, carrier: Carrier | None = None
    ) -> None:
        """Send requests, up to a window of them ahead of the replies, and take the replies.

        Args:
            requests: in order; taken one by one as the window allows.
            timeout: seconds without any progress after which to give up.
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
        flow = Flow((), carrier)
        # a ring that the server made anew is empty, so a slot with one cannot be begun again either
        sent, expired = carrier is not None, False
        spin, moved = 0.0, 0
        moved_at = time.monotonic()
        deadline = moved_at + timeout
        while True:
            while len(pending) < WINDOW and failure is None and (request := next(source, None)) is not None:
                self._last += 1
                request.header.sequence = self._last
                moved += request.header.count
                pending.append(request)
                flow.queue.append(request)
                if carrier is not None:
                    carrier.stage(request)
            if not pending:
                break
            try:
                if self.socket is None:
                    self.connect(max(deadline - time.monotonic(), 0.01), phase, risky=sent)
                    flow = Flow(pending, carrier)
                    answered.clear()
                assert self.socket is not None
                sent = True
                flow.progress = carrier is not None and carrier.progress()
                flow.send(self.socket)
                while len(answered) < len(pending) and (header := flow.receive(self.socket, pending[len(answered)])):
                    if header.status is Status.REFUSED:
                        raise exception_of(decode(pending[len(answered)].reply, Failure), self.endpoint.address)
                    if carrier is not None and header.flags & STAGED:
                        carrier.fetch(pending[len(answered)])
                    answered.append(header)
                    failure = self._settle(pending, answered, carrier, failure)
                failure = self._settle(pending, answered, carrier, failure)
                if flow.broken is not None:
                    raise flow.broken
                now = time.monotonic()
                if flow.progress:
                    deadline, moved_at = now + timeout, now
                    quick = pending and (pending[0].small or (carrier is not None and carrier.busy))
                    spin = now + SPIN_SECONDS if quick else now
                    expired = False
                    continue
                if now < spin:
                    continue
                if self.endpoint.replicated and now > moved_at + QUIET_SECONDS:
                    self.close()  # it may be cut off, or stopped, and another have taken its place
                    self.endpoint.turn()
                    moved_at = now
                    continue
                if expired:
                    raise DeadlineError(
                        f"{phase}: memory server {self.endpoint.address} did not answer for {timeout:g} s"
                    )
                most = min(deadline, moved_at + QUIET_SECONDS) if self.endpoint.replicated else deadline
                expired = not self._sleep(flow, carrier, most - now) and time.monotonic() >= deadline
            except ModumError:
                self.close()
                raise
            except OSError as error:
                self.close()  # and connect again, in the next round
                self._count_forgery(error, phase)
        if failure is not None:
            raise failure
        if moved >= CHUNK:  # a word for what is not worth a word would slow it down
            self._acknowledge()

    def _count_forgery(self, error: OSError, phase: object) -> None:
        """Give up once what comes was changed on the way again and again."""
        if type(error).__name__ != "ForgedError":  # its module needs a package that only encryption does
            return
        self._forgeries += 1
        log.warning("memory server %s: %s", self.endpoint.address, error)
        if self._forgeries >= _MOST_FORGERIES:
            raise ProtocolError(
                f"{phase}: on {self._forgeries} connections to memory server {self.endpoint.address} one after the"
                f" other, {error}\nHINT: somebody or something between here and there changes packets"
            )

    def _acknowledge(self) -> None:
        """Tell the server that it need not keep the replies of this slot; it does not answer."""
        if self.socket is None:
            return
        try:
            sent = self.socket.send(Header(Op.ACKNOWLEDGE, self._acknowledged).pack(), socket.MSG_DONTWAIT)
        except OSError:
            return  # it keeps them, and this connection is found lost when it is used next
        if sent < HEADER_BYTES:
            self.close()

    def take_descriptor(self, segment: int, timeout: float, phase: object) -> int:
        """Have the server pass a descriptor of a segment's memory; only over a Unix socket.

        Args:
            segment: its number.
            timeout: seconds.
            phase: what for; its text stands in errors.

        Returns:
            The descriptor, which the caller closes.

        Raises:
            BufferNotFoundError: the segment is gone.
            ConnectionLostError: the server is gone.
            DeadlineError: the server did not answer, or this process could not take a descriptor for so long, as it
                has too many.
        """
        deadline = Deadline(timeout)
        while True:
            last = deadline.passed
            descriptors = self._descriptors(segment, timeout, phase)
            if descriptors:
                return descriptors[0]
            if last:
                raise self._own_limit(phase, timeout, errno.EMFILE)
            time.sleep(min(_RETRY_PAUSE, deadline.left))

    def _own_limit(self, phase: object, waited: float, number: int) -> DeadlineError:
        """Return the error for a limit of this process or machine, for which the server cannot be asked."""
        return DeadlineError(
            f"{phase}: memory server {self.endpoint.address} could not be asked for {waited:.1f} s, which is no sign"
            f" that it is gone: {os.strerror(number)} in this process\n{_OWN_LIMITS[number]}"
        )

    def _descriptors(self, segment: int, timeout: float, phase: object) -> list[int]:
        """Ask for a descriptor once; the kernel drops it if this process can have no more."""
        if self.socket is None:
            self.connect(timeout, phase)
        assert self.socket is not None
        self._last += 1
        try:
            send_frame(self.socket, Header(Op.ATTACH, self._last, segment=segment))
            self._wake_at(HEADER_BYTES)
            self._poll.modify(self.socket, select.POLLIN)
            deadline = Deadline(timeout)
            while not self._poll.poll(deadline.left * 1000):
                if deadline.passed:
                    raise DeadlineError(
                        f"{phase}: memory server {self.endpoint.address} did not answer for {timeout:g} s"
                    )
            data, descriptors, _, _ = socket.recv_fds(cast("socket.socket", self.socket), HEADER_BYTES, 1)
            if len(data) < HEADER_BYTES:
                raise ConnectionError("the connection has ended")
            header = parse_header(data)
            payload = memoryview(bytearray(header.payload))
            receive_exactly(self.socket, payload)
        except ModumError:
            self.close()
            raise
        except OSError as error:
            self.close()
            raise ConnectionLostError(
                f"{phase}: memory server {self.endpoint.address} is gone: {error}\n{GONE_HINT}"
            ) from None
        self._acknowledged = self._last
        if header.status is not Status.OK:
            raise exception_of(decode(payload, Failure), self.endpoint.address)
        return descriptors

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
            self._forgeries = 0
            pending.popleft()
            answered.popleft()
        return failure

    def _sleep(self, flow: Flow, carrier: Carrier | None, timeout: float) -> bool:
        """Wait until something can be done, and return whether there is anything."""
        assert self.socket is not None
        events = select.POLLIN | (select.POLLOUT if flow.unsent else 0)
        self._wake_at(flow.due)
        if carrier is None or not carrier.busy:
            self._poll.modify(self.socket, events)
            return bool(self._poll.poll(max(0.0, timeout) * 1000))
        if not carrier.arm():
            return True
        both = select.poll()
        both.register(self.socket, events)
        both.register(carrier.fileno(), select.POLLIN)
        return bool(both.poll(min(max(0.0, timeout), NAP_SECONDS) * 1000))

    def _wake_at(self, nbytes: int) -> None:
        """Have the kernel wake this thread when so much has come, not for every packet of it."""
        if nbytes != self._low_water:
            assert self.socket is not None
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, nbytes)
            self._low_water = nbytes
