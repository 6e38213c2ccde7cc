"""What a server remembers of its clients, so that a lost connection loses nothing and repeats nothing.

The words are those of NFSv4.1 (RFC 8881, section 2.10): a session is one client; it has slots, one for each of its
connections, and each slot has its sequence of numbered requests and its reply cache. The cache keeps the number of the
last request that was applied and the replies of the last window, because the difference that an exchange made cannot be
computed again. A connection that is made again goes on with its slot where it was. Unlike there, a slot may have
`WINDOW` requests under way.
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
from modum.box.protocol.limits import CHUNK, MAX_SESSIONS, MAX_SLOTS, WINDOW
from modum.box.rdma.server import Ring
from modum.box.server.segments import Segments
from modum.errors import ProtocolError


@dataclass(slots=True)
class Reply:
    """What was answered, ready to be sent again."""

    header: Header
    payload: bytes | memoryview


class ReplyCache:
    """The replies to the last `WINDOW` requests of a slot.

    Args:
        last: the number of the last request that was applied.
    """

    def __init__(self, last: int) -> None:
        self.last = last
        self._replies: list[Reply | None] = [None] * WINDOW

    def remember(self, sequence: int, reply: Reply) -> None:
        """Note that the request of this number was applied, and what was answered."""
        self._replies[sequence % WINDOW] = reply
        self.last = sequence

    def reply_to(self, sequence: int) -> Reply:
        """Return what was answered to an earlier request.

        Args:
            sequence: number of the request.

        Returns:
            The reply, as it was sent.

        Raises:
            ProtocolError: it is older than the window, and was acknowledged long ago.
        """
        reply = self._replies[sequence % WINDOW]
        if reply is None or reply.header.sequence != sequence:
            raise ProtocolError(f"request {sequence} is outside the window that ends at {self.last}")
        return reply


class Slot:
    """One of a client's streams of requests, and what the server keeps for it.

    Args:
        acknowledged: the last request whose reply the client has.

    Attributes:
        replies: the reply cache.
        serving: held by the thread that serves the slot's connection.
        using: held while a data operation uses the parties.
        socket: the connection, once it is served.
        moved: bytes of the operation under way.
        farewell: whether the client said goodbye.
        ring: where the numbers of staged requests lie, once the slot was linked.
    """

    def __init__(self, acknowledged: int) -> None:
        self.replies = ReplyCache(acknowledged)
        self.serving = threading.Lock()
        self.using = threading.Lock()
        self.socket: socket.socket | None = None
        self.moved = 0
        self.farewell = False
        self.ring: Ring | None = None
        self._rooms: list[bytearray | None] = [None] * WINDOW
        self._parties: dict[int, Party] = {}

    def room(self, sequence: int, nbytes: int, *, staged: bool = False) -> memoryview:
        """Return memory for the payload of a request; the request a window before was acknowledged.

        Args:
            sequence: number of the request.
            nbytes: at most `CHUNK`.
            staged: whether the payload lies in the ring, where the client put it.

        Returns:
            Memory of `nbytes` bytes.

        Raises:
            ProtocolError: it is said to be staged, and this slot has no ring.
        """
        index = sequence % WINDOW
        if staged:
            if self.ring is None:
                raise ProtocolError("a staged request came in a slot that was never linked")
            return self.ring.room(index)[:nbytes]
        room = self._rooms[index]
        if room is None:
            room = self._rooms[index] = bytearray(CHUNK)
        return memoryview(room)[:nbytes]

    def party(self, segments: Segments, number: int) -> Party:
        """Return this slot's own hold on a segment.

        Args:
            segments: of the server.
            number: of the segment.

        Returns:
            The hold; the same object every time.

        Raises:
            BufferNotFoundError: there is no segment of this number.
        """
        party = self._parties.get(number)
        if party is None:
            segment = segments.numbered(number)
            descriptor = segments.duplicate(number)
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
        """Make the thread that serves this slot stop."""
        if (connection := self.socket) is not None:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the other side was faster


class Session:
    """One client.

    Attributes:
        slots: its slots by number.
        connected: how many of its connections are open.
        since: when, on the monotonic clock, a connection last ended.
    """

    def __init__(self) -> None:
        self.slots: dict[int, Slot] = {}
        self.connected = 0
        self.since = time.monotonic()


class Sessions:
    """All sessions of a server. Thread-safe.

    Args:
        grace: seconds without any connection after which a session ends.
        ended: called with the name of each session that has ended.
    """

    def __init__(self, grace: float, ended: Callable[[str], None]) -> None:
        self._grace = grace
        self._ended = ended
        self._sessions: dict[str, Session] = {}
        self._mutex = threading.Lock()

    def __len__(self) -> int:
        return len(self._sessions)

    def enter(self, name: str, number: int, acknowledged: int) -> tuple[Slot, bool]:
        """Note that a connection for a slot was made.

        Args:
            name: of the session.
            number: of the slot.
            acknowledged: the last request of the slot whose reply the client has.

        Returns:
            The slot, and whether it was known.

        Raises:
            ProtocolError: too many sessions or slots.
        """
        with self._mutex:
            if name not in self._sessions and len(self._sessions) >= MAX_SESSIONS:
                raise ProtocolError(f"this server has {MAX_SESSIONS} clients already")
            session = self._sessions.setdefault(name, Session())
            slot = session.slots.get(number)
            known = slot is not None
            if slot is None:
                if len(session.slots) >= MAX_SLOTS:
                    raise ProtocolError(f"one client has {MAX_SLOTS} connections already")
                slot = session.slots[number] = Slot(acknowledged)
            session.connected += 1
            return slot, known

    def slot(self, name: str, number: int) -> Slot:
        """Return a slot of a session.

        Args:
            name: of the session.
            number: of the slot.

        Returns:
            The slot.

        Raises:
            ProtocolError: there is none.
        """
        with self._mutex:
            session = self._sessions.get(name)
            if session is None or number not in session.slots:
                raise ProtocolError(f"this client has no slot {number}")
            return session.slots[number]

    def slots(self) -> list[Slot]:
        """Return every slot of every session."""
        with self._mutex:
            return [slot for session in self._sessions.values() for slot in session.slots.values()]

    def leave(self, name: str) -> bool:
        """Note that a connection of the session ended, and return whether the session goes on."""
        with self._mutex:
            session = self._sessions.get(name)
            if session:
                session.connected -= 1
                session.since = time.monotonic()
            return session is not None

    def end(self, name: str) -> None:
        """End a session at once: its client said goodbye."""
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

    def close(self) -> None:
        """End all sessions."""
        for name in list(self._sessions):
            self.end(name)

    def _finish(self, name: str, session: Session | None) -> None:
        if session:
            for slot in session.slots.values():
                slot.close()
            self._ended(name)
