"""The connections of one client to one server."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from modum.box.client.connection import Connection
from modum.box.client.endpoint import Endpoint
from modum.errors import ConnectionLostError


class ConnectionPool:
    """As many connections to one server as there are threads that ask at the same time. Thread-safe.

    Each has a slot of its own in the client's session at the server.

    Args:
        endpoint: the server.
        first_slot: number of the first slot; numbers are never used again.
    """

    def __init__(self, endpoint: Endpoint, first_slot: int = 0) -> None:
        self.endpoint = endpoint
        self._next_slot = first_slot
        self._idle: list[Connection] = []
        self._mutex = threading.Lock()
        self._closed = False

    def redirected(self, target: tuple[str, int] | str) -> "ConnectionPool":
        """Return a pool to the same server and session at another target, whose slots come after those of this one."""
        with self._mutex:
            return ConnectionPool(replace(self.endpoint, target=target), self._next_slot)

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Lend an idle connection or a new one; it comes back unless it was left in the middle of something.

        Yields:
            The connection, for this thread alone. A new one is not connected yet.

        Raises:
            ConnectionLostError: the pool was closed.
        """
        with self._mutex:
            if self._closed:
                raise ConnectionLostError("this box was closed")
            if self._idle:
                connection = self._idle.pop()
            else:
                connection = Connection(self.endpoint, self._next_slot)
                self._next_slot += 1
        try:
            yield connection
        finally:
            with self._mutex:
                if connection.clean and not self._closed:
                    self._idle.append(connection)
                else:
                    connection.close()

    def check(self, phase: object) -> None:
        """Look whether the server is still there, without a word to it; for connections that are never cut.

        Args:
            phase: what for; its text stands in the error.

        Raises:
            ConnectionLostError: the server is gone.
        """
        with self._mutex:
            if self._idle and self._idle[-1].lost:
                raise ConnectionLostError(f"{phase}: memory server {self.endpoint.address} is gone")

    def close(self) -> None:
        """Close all idle connections; one in use is closed when it comes back."""
        with self._mutex:
            self._closed = True
            for connection in self._idle:
                connection.close()
            self._idle.clear()
