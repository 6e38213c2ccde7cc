"""Who is at the door: connections that have not shown yet that they may come in. Nothing here waits."""

import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

from modum.box.server.sessions import Closable


@dataclass(frozen=True, slots=True)
class _Stranger:
    """Where a connection comes from, and when its time is up."""

    place: str
    end: float


class Strangers:
    """The connections that are in the handshake, of which there may be so many, each for so long. Thread-safe.

    When one more comes than may be there, one has to go: the oldest one of the place from which most have come, so
    that a place which sends many loses its own.

    Args:
        most: how many there may be.
        seconds: how long each may take.
        clock: seconds of a monotonic clock.
    """

    def __init__(self, most: int, seconds: float, clock: Callable[[], float]) -> None:
        self._most = most
        self._seconds = seconds
        self._clock = clock
        self._there: dict[Closable, _Stranger] = {}  # the oldest first
        self._mutex = Lock()

    def __len__(self) -> int:
        return len(self._there)

    def admit(self, connection: Closable, place: str) -> None:
        """Note a fresh connection, and hang up on the one that has to go for it, if any.

        Args:
            connection: a fresh one.
            place: where it comes from: an address, or a user of this machine.
        """
        with self._mutex:
            self._there[connection] = _Stranger(place, self._clock() + self._seconds)
            if len(self._there) > self._most:
                busiest = Counter(each.place for each in self._there.values()).most_common(1)[0][0]
                oldest = next(each for each, stranger in self._there.items() if stranger.place == busiest)
                self._hang_up(oldest)

    def known(self, connection: Closable) -> None:
        """Note that a connection is no stranger any more: it has shown that it may come in, or has ended."""
        with self._mutex:
            self._there.pop(connection, None)

    def hang_up_late_ones(self) -> None:
        """Hang up on those whose time is up."""
        now = self._clock()
        with self._mutex:
            for connection in [each for each, stranger in self._there.items() if stranger.end <= now]:
                self._hang_up(connection)

    def _hang_up(self, connection: Closable) -> None:
        del self._there[connection]
        try:
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the other side was faster
