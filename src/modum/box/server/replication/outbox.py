"""Replies on their way to one client: each goes out in its turn, once what it depends on is safe."""

import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import Self

from modum.box.server.sessions import Caller, Reply
from modum.box.sockets import Stream, send_frame


class Outbox:
    """Sends the replies of one connection, so that its next requests are done meanwhile.

    Args:
        safe: whether what depends on a record may be acknowledged now.
        wait: waits until it may be; what it raises ends the connection.
        caller: who asks.
        connection: to send on.
    """

    def __init__(
        self,
        safe: Callable[[int], bool],
        wait: Callable[[int, Caller], None],
        caller: Caller,
        connection: Stream,
    ) -> None:
        self._safe = safe
        self._wait = wait
        self._caller = caller
        self._connection = connection
        self._replies: deque[tuple[Reply, int]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    def put(self, reply: Reply, record: int) -> None:
        """Send a reply at once if it may be sent and none is before it, else in its turn."""
        with self._changed:
            first = not self._replies
            if not first or not self._safe(record):
                self._replies.append((reply, record))
                if self._thread is None:
                    self._thread = threading.Thread(target=self._send, name="modum-outbox", daemon=True)
                    self._thread.start()
                self._changed.notify_all()
                return
        send_frame(self._connection, reply.header, reply.payload)

    def _send(self) -> None:
        while True:
            with self._changed:
                while not self._replies:
                    if self._closed:
                        return
                    self._changed.wait()
                reply, record = self._replies[0]
            try:
                self._wait(record, self._caller)
                send_frame(self._connection, reply.header, reply.payload)
            except OSError:
                self._hang_up()
                return
            with self._changed:
                self._replies.popleft()

    def _hang_up(self) -> None:
        """Nothing can be sent any more: the client is to ask again over another connection."""
        try:
            self._connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the other side was faster

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
