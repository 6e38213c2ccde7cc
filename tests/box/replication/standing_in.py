"""Memory servers in this process that stand in for each other, and can be lost."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from modum.box import Box, Server
from modum.box.server.replication.ring import Replication
from modum.cluster.ports import free_ports
from modum.waiting import poll

PATIENCE = 60.0
"""Seconds that a test waits for what takes two, as the machine may be busy."""


class Servers:
    """Three servers with replicas.

    Args:
        **settings: of each server.
    """

    count = 3

    def __init__(self, **settings: Any) -> None:
        self._ports = free_ports(self.count)
        self._settings = {"memory": 256 << 20, "grace": 0.2, **settings}
        self.addresses = [f"127.0.0.1:{port}" for port in self._ports]
        self.servers: dict[int, Server] = {}

    def start(self, index: int, **settings: Any) -> None:
        """Start a server, or start it again, with other settings perhaps."""
        replication = Replication(self.addresses, index)
        server = Server("127.0.0.1", self._ports[index], **{"replication": replication, **self._settings, **settings})
        self.servers[index] = server.start()

    def lose(self, index: int) -> None:
        """End a server without a word."""
        self.servers.pop(index).close()

    @property
    def whole(self) -> bool:
        """Whether any one of the servers may be lost."""
        stands = [stand for server in self.servers.values() for stand in server.stands.values()]
        return (
            len(self.servers) == len(stands) == self.count
            and all(stand.backup >= 0 for stand in stands)
            and all(server.votes for server in self.servers.values())
        )

    @property
    def backed(self) -> bool:
        """Whether everything is at two servers, of those that there are."""
        stands = [stand for server in self.servers.values() for stand in server.stands.values()]
        return len(stands) == self.count and all(stand.backup >= 0 for stand in stands)

    def wait_until_whole(self) -> None:
        """Wait until any one of the servers may be lost."""
        poll(lambda: self.whole, timeout=PATIENCE, every=0.02, error=lambda: AssertionError(self._told()))

    def wait_until_backed(self) -> None:
        """Wait until everything is at two servers."""
        poll(lambda: self.backed, timeout=PATIENCE, every=0.02, error=lambda: AssertionError(self._told()))

    def _told(self) -> str:
        return str({index: (server.stands, server.votes) for index, server in self.servers.items()})

    def primary(self, place: int) -> int:
        """Number of the server that serves a place."""
        return next(index for index, server in self.servers.items() if place in server.stands)

    def backup(self, place: int) -> int:
        """Number of the server that stands in for it."""
        return self.servers[self.primary(place)].stands[place].backup

    def __enter__(self) -> Self:
        for index in range(self.count):
            self.start(index)
        self.wait_until_whole()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        for server in self.servers.values():
            server.close()


@contextmanager
def replicated(**settings: Any) -> Iterator[tuple[Servers, Box]]:
    """Three servers, and a client of them."""
    with Servers(**settings) as servers, Box.connect(servers.addresses, timeout=30) as box:
        yield servers, box
