"""What a server remembers of its clients, so that a lost connection loses nothing and repeats nothing.

A session is one client; a lane is one of its connections. The requests of a lane are numbered. The server remembers the
number of the last one that it applied and keeps the replies of the last window, because the difference that an
exchange made cannot be computed again. A lane that connects again goes on where it was.
"""

import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from modum.box.memory.apply import Party
from modum.box.memory.locks import Locks
from modum.box.protocol.frames import Header
from modum.box.protocol.limits import CHUNK, WINDOW
from modum.box.rdma.server import Ring
from modum.box.server.segments import Segments
from modum.errors import ProtocolError

MAX_LANES = 256  # of one session
MAX_SESSIONS = 4096


@dataclass(slots=True)
class Reply:
    """What was answered, ready to be sent again."""

    header: Header
    payload: bytes | memoryview


class Slot:
    """One connection's memory. `using` is held while a data operation uses the parties."""

    def __init__(self, acknowledged: int) -> None:
        self.last = acknowledged
        self.serving = threading.Lock()
        self.using = threading.Lock()
        self.socket: socket.socket | None = None
        self.moved = 0  # bytes of the operation under way
        self.farewell = False  # the client said goodbye
        self.ring: Ring | None = None  # where the numbers of staged requests lie
        self._replies: list[Reply | None] = [None] * WINDOW
        self._slots: list[bytearray | None] = [None] * WINDOW
        self._parties: dict[int, Party] = {}

    def slot(self, sequence: int, nbytes: int, *, staged: bool = False) -> memoryview:
        """Memory for the payload of request `sequence`: the request a window before was acknowledged.

        Raises:
            ProtocolError: it is said to be staged, and this lane has no ring.
        """
        index = sequence % WINDOW
        if staged:
            if self.ring is None:
                raise ProtocolError("a staged request came over a lane that was never linked")
            return self.ring.slot(index)[:nbytes]
        slot = self._slots[index]
        if slot is None:
            slot = self._slots[index] = bytearray(CHUNK)
        return memoryview(slot)[:nbytes]

    def remember(self, sequence: int, reply: Reply) -> None:
        """Request `sequence` is done."""
        self._replies[sequence % WINDOW] = reply
        self.last = sequence

    def reply_to(self, sequence: int) -> Reply:
        """What was answered to an earlier request.

        Raises:
            ProtocolError: it is older than the window, and was acknowledged long ago.
        """
        reply = self._replies[sequence % WINDOW]
        if reply is None or reply.header.sequence != sequence:
            raise ProtocolError(f"request {sequence} is outside the window that ends at {self.last}")
        return reply

    def party(self, pool: Segments, number: int) -> Party:
        """This lane's own hold on a segment."""
        party = self._parties.get(number)
        if party is None:
            segment = pool.numbered(number)
            descriptor = pool.duplicate(number)
            try:
                locks = Locks(descriptor, segment.spec.name, segment.spec.segment_bytes)
            finally:
                os.close(descriptor)
            party = self._parties[number] = Party(segment.spec.name, segment.spec.dtype, segment.mapping, locks)
        return party

    def forget(self, number: int) -> None:
        """Let go of a segment that was deleted."""
        with self.using:
            party = self._parties.pop(number, None)
            if party:
                party.locks.close()

    def close(self) -> None:
        """End the connection, and let go of everything."""
        self.hang_up()
        if self.ring:
            self.ring.close()
        for number in list(self._parties):
            self.forget(number)

    def hang_up(self) -> None:
        """Make whoever serves this lane stop."""
        if (connection := self.socket) is not None:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the other side was faster


class Session:
    """One client's lanes, and since when none of them is connected."""

    def __init__(self) -> None:
        self.lanes: dict[int, Slot] = {}
        self.connected = 0
        self.since = time.monotonic()


class Sessions:
    """All sessions of a server; one ends when none of its lanes was connected for `grace` seconds."""

    def __init__(self, grace: float, ended: Callable[[str], None]) -> None:
        self._grace = grace
        self._ended = ended
        self._sessions: dict[str, Session] = {}
        self._mutex = threading.Lock()

    def __len__(self) -> int:
        return len(self._sessions)

    def enter(self, name: str, number: int, acknowledged: int) -> tuple[Slot, bool]:
        """A connection of lane `number` was made; (the lane, whether it was known).

        Raises:
            ProtocolError: too many sessions or lanes.
        """
        with self._mutex:
            if name not in self._sessions and len(self._sessions) >= MAX_SESSIONS:
                raise ProtocolError(f"this server has {MAX_SESSIONS} clients already")
            session = self._sessions.setdefault(name, Session())
            lane = session.lanes.get(number)
            known = lane is not None
            if lane is None:
                if len(session.lanes) >= MAX_LANES:
                    raise ProtocolError(f"one client has {MAX_LANES} connections already")
                lane = session.lanes[number] = Slot(acknowledged)
            session.connected += 1
            return lane, known

    def lane(self, name: str, number: int) -> Slot:
        """A lane of a session.

        Raises:
            ProtocolError: there is none.
        """
        with self._mutex:
            session = self._sessions.get(name)
            if session is None or number not in session.lanes:
                raise ProtocolError(f"this client has no lane {number}")
            return session.lanes[number]

    def leave(self, name: str) -> bool:
        """A connection of the session was lost or closed; whether the session goes on."""
        with self._mutex:
            session = self._sessions.get(name)
            if session:
                session.connected -= 1
                session.since = time.monotonic()
            return session is not None

    def end(self, name: str) -> None:
        """The client said goodbye."""
        with self._mutex:
            session = self._sessions.pop(name, None)
        self._finish(name, session)

    def end_silent_ones(self) -> None:
        """End every session whose grace has gone by."""
        limit = time.monotonic() - self._grace
        with self._mutex:
            silent = [
                name for name, session in self._sessions.items() if not session.connected and session.since < limit
            ]
            ended = [(name, self._sessions.pop(name)) for name in silent]
        for name, session in ended:
            self._finish(name, session)

    def lanes(self) -> list[Slot]:
        """Every lane of every session."""
        with self._mutex:
            return [lane for session in self._sessions.values() for lane in session.lanes.values()]

    def close(self) -> None:
        """End all."""
        for name in list(self._sessions):
            self.end(name)

    def _finish(self, name: str, session: Session | None) -> None:
        if session:
            for lane in session.lanes.values():
                lane.close()
            self._ended(name)
