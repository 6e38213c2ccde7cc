"""The connections of one client to one server."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from modum.box.client.connection import Connection
from modum.box.client.endpoint import Endpoint
from modum.errors import ConnectionLostError, ModumError


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
        self._unsettled: list[Connection] = []  # given up in the middle of something
        self._mutex = threading.Lock()
        self._settling = threading.Lock()
        self._closed = False
        self._process = os.getpid()

    def check_process(self) -> None:
        """Check that this is no fork of the process that connected: both would number requests of the same slots.

        Raises:
            ModumError: it is one.
        """
        if os.getpid() != self._process:
            raise ModumError(
                f"memory server {self.endpoint.address} was connected by process {self._process}, of which this one"
                " is a fork: connect a box of its own here"
            )

    def redirected(self, target: tuple[str, int] | str) -> "ConnectionPool":
        """Return a pool to the same server and session at another target, whose slots come after those of this one."""
        with self._mutex:
            return ConnectionPool(replace(self.endpoint, targets=[target]), self._next_slot)

    @contextmanager
    def connection(self, timeout: float, phase: object) -> Iterator[Connection]:
        """Lend an idle connection or a new one.

        What was asked for over a connection that was given up in the middle may still be on its way: the server is
        made to drop it before anybody asks for anything else, so that nothing old happens after something new.

        Args:
            timeout: seconds for that.
            phase: what for; its text stands in errors.

        Yields:
            The connection, for this thread alone. A new one is not connected yet.

        Raises:
            ModumError: this process is a fork of the one that connected.
            ConnectionLostError: the pool was closed, or the server is gone.
            DeadlineError: the server could not be reached to drop what is on its way.
        """
        self.check_process()
        self._settle(timeout, phase)
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
                if self._closed:
                    connection.close()
                elif connection.clean:
                    self._idle.append(connection)
                else:
                    connection.close()
                    self._unsettled.append(connection)

    def _settle(self, timeout: float, phase: object) -> None:
        """Settle every connection that was given up; another thread that asks meanwhile waits for that."""
        if not self._unsettled:
            return
        with self._settling:
            while self._unsettled:
                connection = self._unsettled[-1]
                connection.settle(timeout, phase)
                with self._mutex:
                    self._unsettled.remove(connection)
                    if self._closed:
                        connection.close()
                    else:
                        self._idle.append(connection)

    def close(self) -> None:
        """Close all idle connections; one in use is closed when it comes back."""
        with self._mutex:
            self._closed = True
            for connection in self._idle:
                connection.close()
            self._idle.clear()
