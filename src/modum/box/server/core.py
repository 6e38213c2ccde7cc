"""All that a memory server keeps for its clients, and who does what they ask for: everything but listeners."""

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from modum.box.protocol.limits import MIN_WORKING
from modum.box.protocol.messages import ServerStatistics, SnapshotStatistics
from modum.box.rdma.server import Reachable
from modum.box.server.budget import Budget
from modum.box.server.dispatch import Dispatch
from modum.box.server.membership import Membership
from modum.box.server.performing import Direct, Performer
from modum.box.server.primitives import Primitives
from modum.box.server.segments import Segments
from modum.box.server.sessions import Sessions
from modum.box.server.snapshots import Snapshots, SnapshotSettings
from modum.box.server.waiting import WaitingRoom
from modum.box.tokens import Token


class Clock:
    """Seconds by which leases are counted. A backup goes by the clock of its primary, and goes on from there."""

    def __init__(self) -> None:
        self._ahead = 0.0
        self._held: dict[int, float] = {}  # by threads

    def __call__(self) -> float:
        held = self._held.get(threading.get_ident())
        return time.monotonic() + self._ahead if held is None else held

    @contextmanager
    def held(self, now: float) -> Iterator[None]:
        """Have this thread see one moment inside of the `with`."""
        self._held[threading.get_ident()] = now
        try:
            yield
        finally:
            del self._held[threading.get_ident()]

    def go_on_from(self, now: float) -> None:
        """Have it be `now`."""
        self._ahead = now - time.monotonic()


class Core:
    """What belongs together of a memory server: memory, what is kept besides, clients, and what is done for them.

    Args:
        memory: limit of the pool, in bytes.
        grace: seconds without any connection after which a client counts as dead.
        describe: returns the statistics of a core, as the holder of a token may see them.
        limit_of: returns how much memory a job may take, or None.
        forbidden: why nothing is offered over RDMA, whatever devices there are; empty: nothing speaks against it.
        identifier: that clients know it by; None makes one.
        snapshots: where to write them, and when; None writes none.

    Attributes:
        identifier: random, of the server's run.
        performer: does what clients ask for.
    """

    def __init__(
        self,
        memory: int,
        grace: float,
        describe: Callable[["Core", Token], ServerStatistics],
        *,
        limit_of: Callable[[str], int | None] = lambda _: None,
        forbidden: str = "",
        identifier: str | None = None,
        snapshots: SnapshotSettings | None = None,
    ) -> None:
        self.identifier = identifier or secrets.token_hex(8)
        self.clock = Clock()
        self.budget = Budget(memory, limit_of)
        self.segments = Segments(self.budget)
        self.room = WaitingRoom(time.monotonic)
        self.primitives = Primitives(self.clock, self.room, self.budget)
        self.sessions = Sessions(
            grace,
            lambda session: self.primitives.end_session(session.name),
            self.room.wake_all,
            time.monotonic,
            max(MIN_WORKING, memory // 4),
        )
        self.reachable = Reachable(forbidden)
        self.membership = Membership(
            lambda: self.segments.is_empty() and self.primitives.is_empty(), self.sessions.has_client_of
        )
        self.snapshots = (
            Snapshots(snapshots, self.identifier, self.segments, self.primitives, self.membership, self.room)
            if snapshots
            else None
        )
        self.dispatch = Dispatch(
            self.segments,
            self.primitives,
            self.room,
            self.membership,
            self.sessions,
            self.reachable,
            lambda token: describe(self, token),
            self.snapshots,
        )
        self.performer: Performer = Direct(self.dispatch)

    def snapshot_statistics(self) -> SnapshotStatistics | None:
        """Return how the snapshots went; None if there are none."""
        return self.snapshots.statistics() if self.snapshots else None

    def stop(self) -> None:
        """End every wait, and the writing of snapshots."""
        self.room.stop()
        if self.snapshots:
            self.snapshots.close()

    def close(self) -> None:
        """End all sessions and give the memory back."""
        self.room.stop()
        self.sessions.close()
        self.reachable.close()
        self.segments.close()
