"""What stands for the modules `socket`, `select` and `selectors` in a simulated world."""

import os
import select as real_select
import selectors as real_selectors
import socket as real
from collections.abc import Sequence
from typing import Any

from tests.simulation.clockwork import Clockwork, Task
from tests.simulation.network import Link, Network, Socket


class Sockets:
    """`socket`, for the processes of a world."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def __getattr__(self, name: str) -> Any:
        return getattr(real, name)

    def socket(self, family: int = real.AF_INET, kind: int = real.SOCK_STREAM) -> Socket:
        return Socket(self._network, family, kind)

    def create_server(self, address: tuple[str, int], *, family: int = real.AF_INET, backlog: int = 128) -> Socket:
        host, port = address
        listener = self.socket(family)
        listener.bind((host, port or self._network.port()))
        listener.listen(backlog)
        return listener

    def create_connection(self, address: tuple[str, int], timeout: float | None = None) -> Socket:
        connection = self.socket()
        connection.settimeout(timeout)
        try:
            connection.connect(address)
        except OSError:
            connection.close()
            raise
        return connection

    def socketpair(self) -> tuple[Socket, Socket]:
        one, other = self.socket(real.AF_UNIX), self.socket(real.AF_UNIX)
        Link(self._network, one, other, local=True)
        return one, other

    def send_fds(self, connection: Socket, parts: Sequence[bytes], descriptors: Sequence[int]) -> int:
        return connection.send(b"".join(parts), 0, [os.dup(each) for each in descriptors])

    def recv_fds(self, connection: Socket, count: int, most: int) -> tuple[bytes, list[int], int, None]:
        data = connection.recv(count, real.MSG_WAITALL)
        found, connection.descriptors = connection.descriptors[:most], connection.descriptors[most:]
        return data, found, 0, None


class Poll:
    """`select.poll`."""

    def __init__(self, clock: Clockwork) -> None:
        self._clock = clock
        self._sockets: dict[Socket, int] = {}

    def register(self, connection: Socket, events: int) -> None:
        self._sockets[connection] = events

    modify = register

    def poll(self, milliseconds: float | None = None) -> list[tuple[int, int]]:
        if (found := self._ready()) or milliseconds == 0:
            return found
        _wait_for(self._clock, list(self._sockets), None if milliseconds is None else milliseconds / 1000)
        return self._ready()

    def _ready(self) -> list[tuple[int, int]]:
        found = []
        for connection, events in self._sockets.items():
            ready = 0
            if events & real_select.POLLIN and connection.readable():
                ready |= real_select.POLLIN
            if events & real_select.POLLOUT and connection.writable():
                ready |= real_select.POLLOUT
            if connection.broken:
                ready |= real_select.POLLHUP
            if ready:
                found.append((connection.number, ready))
        return found


class Select:
    """`select`, for the processes of a world."""

    def __init__(self, clock: Clockwork) -> None:
        self._clock = clock

    def __getattr__(self, name: str) -> Any:
        return getattr(real_select, name)

    def poll(self) -> Poll:
        return Poll(self._clock)


class Selectors:
    """`selectors`, for the processes of a world."""

    EVENT_READ = real_selectors.EVENT_READ

    def __init__(self, clock: Clockwork) -> None:
        self._clock = clock

    def DefaultSelector(self) -> "Selector":  # noqa: N802
        return Selector(self._clock)


class Selector:
    """`selectors.DefaultSelector`, for reading."""

    def __init__(self, clock: Clockwork) -> None:
        self._clock = clock
        self._keys: dict[Socket, real_selectors.SelectorKey] = {}

    def register(self, connection: Socket, events: int, data: Any = None) -> None:
        self._keys[connection] = real_selectors.SelectorKey(connection, connection.number, events, data)

    def select(self, timeout: float | None = None) -> list[tuple[real_selectors.SelectorKey, int]]:
        if not any(connection.readable() for connection in self._keys):
            _wait_for(self._clock, list(self._keys), timeout)
        return [(key, real_selectors.EVENT_READ) for connection, key in self._keys.items() if connection.readable()]

    def unregister(self, connection: Socket) -> None:
        del self._keys[connection]

    def close(self) -> None:
        self._keys.clear()

    def __enter__(self) -> "Selector":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _wait_for(clock: Clockwork, sockets: Sequence[Socket], timeout: float | None) -> None:
    """Wait until one of the sockets changes."""
    task: Task = clock.task
    entry = (task, task.waits + 1)
    for connection in sockets:
        connection.changed.waiting.append(entry)
    try:
        clock.wait(timeout)
    finally:
        for connection in sockets:
            if entry in connection.changed.waiting:
                connection.changed.waiting.remove(entry)
