"""The bytes of one socket: what is still to be sent, and what has come of the next reply. Nothing here blocks."""

import socket
from collections import deque
from collections.abc import Iterable

from modum.box.client.pending import Carrier, Pending
from modum.box.protocol.frames import STAGED, Header, Status, parse_header
from modum.box.protocol.limits import HEADER_BYTES
from modum.box.sockets import Stream, unsent
from modum.errors import ProtocolError


class Flow:
    """One socket's progress.

    Args:
        queue: requests to send, in order.
        carrier: for staged requests.
    """

    def __init__(self, queue: Iterable[Pending], carrier: Carrier | None) -> None:
        self.queue = deque(queue)
        self.progress = False
        """Whether anything has moved since this was last set to False."""
        self.broken: OSError | None = None
        """Why nothing more can be sent; what the server said before that may still be received."""
        self._carrier = carrier
        self._parts: list[bytes | memoryview] = []
        self._start = memoryview(bytearray(HEADER_BYTES))
        self._header: Header | None = None
        self._target = self._start
        self._have = 0

    @property
    def unsent(self) -> bool:
        """Whether something waits until the socket takes more."""
        return bool(self._parts)

    @property
    def due(self) -> int:
        """Bytes that the next step of receiving needs."""
        return len(self._target) - self._have

    def send(self, connection: Stream) -> None:
        """Send what the socket takes now."""
        while self._parts or self.queue:
            if not self._parts:
                if self._carrier is not None and not self._carrier.stage(self.queue[0]):
                    return
                request = self.queue.popleft()
                if request.prepare is not None:  # while the socket sends what is before it
                    request.prepare()
                    request.prepare = None
                self._parts = [request.header.pack(), request.payload]
            try:
                sent = connection.sendmsg(self._parts, (), socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError as error:
                self.broken = error
                return
            self.progress = True
            self._parts = [] if sent == sum(map(len, self._parts)) else unsent(self._parts, sent)

    def receive(self, connection: Stream, request: Pending) -> Header | None:
        """Take what has come, and return the header of the reply to `request` once all of it is there.

        Args:
            connection: on which replies come.
            request: the one whose reply is waited for.

        Returns:
            The header, or None while a part of it is still to come.

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
                self._target = _room(header, request)
                continue
            self._target = self._start
            return header


def _room(header: Header, request: Pending) -> memoryview:
    """Return memory for the payload that `header` announces."""
    if header.status is not Status.REFUSED and header.sequence != request.header.sequence:
        raise ProtocolError(f"reply to request {header.sequence} where {request.header.sequence} was due")
    if header.status is Status.OK and request.sink is not None and not header.flags & STAGED:
        if header.payload != len(request.sink):
            raise ProtocolError(f"reply of {header.payload} bytes where {len(request.sink)} were due")
        return request.sink
    request.reply = memoryview(bytearray(header.payload))
    return request.reply
