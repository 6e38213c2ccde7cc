"""What a server remembers of its clients, so that a lost connection loses nothing and repeats nothing.

The words are those of NFSv4.1 (RFC 8881, section 2.10): a session is one client; it has slots, one for each of its
connections, and each slot has its sequence of numbered requests and its reply cache. The cache keeps the number of the
last request that was applied and the replies of the last window, because the difference that an exchange made cannot be
computed again. A connection that is made again goes on with its slot where it was. Unlike there, a slot may have
`WINDOW` requests under way.
"""

import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from modum.box.memory.apply import Party
from modum.box.memory.locks import Locks
from modum.box.protocol.frames import Header
from modum.box.protocol.limits import (
    CHUNK,
    INCARNATION_BYTES,
    LOCK_TIMEOUT,
    MAX_SESSIONS,
    MAX_SLOTS,
    MIN_WORKING,
    WINDOW,
)
from modum.box.protocol.messages import Proof
from modum.box.rdma.server import Ring
from modum.box.server.segments import Segments
from modum.box.tokens import EVERYTHING, Token, Tokens
from modum.errors import AuthenticationError, ForgottenError, PoolFullError, ProtocolError
from modum.units import format_bytes
from modum.waiting import poll

WORD = 0.2
"""Seconds that a client's word that it has a reply may be on its way, until which its slot keeps that."""


class Closable(Protocol):
    """A connection, as far as sessions know it."""

    def shutdown(self, how: int, /) -> None:
        """Make whoever reads from it stop."""


@dataclass(slots=True)
class Reply:
    """What was answered, ready to be sent again.

    Attributes:
        header: of the frame.
        payload: behind it.
        farewell: whether the connection ends with it, and the session.
    """

    header: Header
    payload: bytes | memoryview
    farewell: bool = False


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

    def kept(self) -> list[Reply]:
        """Return the replies that are kept, in order."""
        return sorted((each for each in self._replies if each), key=lambda each: each.header.sequence)

    def forget(self) -> None:
        """Drop the replies: the client has them all."""
        self._replies = [None] * WINDOW

    @property
    def nbytes(self) -> int:
        """Bytes of the answers to calls; numbers lie in the rooms of the slot."""
        return sum(len(each.payload) for each in self._replies if each and isinstance(each.payload, bytes))

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
        session: whose it is.
        acknowledged: the last request whose reply the client has.
        growing: see the attribute.
        number: see the attribute.

    Attributes:
        session: whose it is.
        number: of the slot in its session.
        growing: to be entered, with a number of bytes, while the slot takes more memory.
        incarnation: tells it from an earlier slot of its number.
        attempt: number of the client's newest connection of this slot.
        connection: the newest one; every other one is of no account any more.
        timeout: seconds without any progress after which the client gives up.
        replies: the reply cache.
        serving: held by the thread that serves the slot's connection.
        using: held while a data operation uses the parties.
        moved: bytes of the operation under way.
        ring: where the numbers of staged requests lie, once the slot was linked.
    """

    def __init__(
        self,
        session: "Session",
        acknowledged: int,
        growing: Callable[[int], AbstractContextManager[None]] = lambda _: nullcontext(),
        number: int = 0,
    ) -> None:
        self.session = session
        self.number = number
        self.growing = growing
        self.incarnation = secrets.token_bytes(INCARNATION_BYTES)
        self.attempt = 0
        self.connection: Closable | None = None
        self.timeout = LOCK_TIMEOUT
        self.replies = ReplyCache(acknowledged)
        self.serving = threading.Lock()
        self.using = threading.Lock()
        self.moved = 0
        self.ring: Ring | None = None
        self._rooms = [bytearray()] * WINDOW  # as large as what has come so far
        self._settled = False  # nothing is under way, and the client has every reply
        self._mutex = threading.Lock()
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
            PoolFullError: the server's connections keep too much together.
        """
        index = sequence % WINDOW
        if staged:
            if self.ring is None:
                raise ProtocolError("a staged request came in a slot that was never linked")
            return self.ring.room(index)[:nbytes]
        room = self._rooms[index]
        if len(room) < nbytes:
            size = min(CHUNK, 1 << (nbytes - 1).bit_length())
            with self.growing(size - len(room)):
                room = self._rooms[index] = bytearray(size)
        return memoryview(room)[:nbytes]

    def begin(self) -> None:
        """Note that a request is under way."""
        with self._mutex:
            self._settled = False

    def settle(self, sequence: int) -> None:
        """Note that the client has the replies up to this number."""
        with self._mutex:
            self._settled = sequence >= self.replies.last  # reads that another server has answered are not among them

    def shrink(self) -> None:
        """Give back what is kept for requests, if none is under way and every reply has arrived."""
        with self._mutex:
            if self._settled:
                self._rooms = [bytearray()] * WINDOW
                self.replies.forget()

    @property
    def working(self) -> int:
        """Bytes that the slot keeps for what is under way, and what was answered."""
        return sum(map(len, self._rooms)) + (WINDOW * CHUNK if self.ring else 0) + self.replies.nbytes

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
        # a closed slot may be in a circle of references, which is collected late
        self._rooms = [bytearray()] * WINDOW
        self.replies.forget()

    def hang_up(self) -> None:
        """Make the thread that serves this slot stop."""
        if (connection := self.connection) is not None:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the other side was faster


class Session:
    """One client.

    Args:
        name: of the client.
        now: seconds of the server's clock.

    Attributes:
        name: of the client, in errors and tables.
        slots: its slots by number.
        connected: how many of its connections are open.
        since: when a connection last ended.
        box: digest of the `Join` by which it belongs to a box, once it has joined.
        token: with which it came; None before the first of its connections has come in.
        ended: whether it said goodbye, or was silent for too long: nothing is done or handed out for it any more.
    """

    def __init__(self, name: str, now: float) -> None:
        self.name = name
        self.slots: dict[int, Slot] = {}
        self.connected = 0
        self.since = now
        self.box = b""
        self.token: Token | None = None
        self.ended = False


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request: one connection of a slot.

    Attributes:
        slot: in which the request was made.
        connection: over which it came.
    """

    slot: Slot
    connection: Closable

    @property
    def timeout(self) -> float:
        """Seconds that it waits for a locked chunk."""
        return self.slot.timeout

    @property
    def holder(self) -> str:
        """Name of the session that gets what is handed out."""
        return self.slot.session.name

    @property
    def token(self) -> Token:
        """With which it came."""
        return self.slot.session.token or EVERYTHING

    def check(self) -> None:
        """Check that somebody still asks.

        Raises:
            ConnectionAbortedError: a newer connection has come, or the session has ended.
        """
        if self.slot.connection is not self.connection or self.slot.session.ended:
            raise ConnectionAbortedError("a newer connection of the client has come, or its session has ended")


class Journal(Protocol):
    """Has somebody else know of what happens to sessions."""

    @property
    def order(self) -> AbstractContextManager[object, Any]:
        """Held by whatever changes what the server keeps. Reentrant."""

    def opened(self, slot: Slot) -> None:
        """Note that a session has a new slot."""

    def settled(self, slot: Slot, sequence: int) -> None:
        """Note that a client has the replies up to this number."""

    def ended(self, session: Session) -> None:
        """Note that a session has ended without a goodbye."""


class _NoJournal:
    order: AbstractContextManager[object, Any] = nullcontext()

    def opened(self, slot: Slot) -> None:
        pass

    def settled(self, slot: Slot, sequence: int) -> None:
        pass

    def ended(self, session: Session) -> None:
        pass


class Sessions:
    """All sessions of a server. Thread-safe.

    Args:
        grace: seconds without any connection after which a session ends.
        ended: called with each session that has ended, before there can be another one of its name.
        disturbed: called when a connection has become void, so that waits on its behalf may end.
        clock: seconds of a monotonic clock.
        working: bytes that all slots together may keep for requests under way and their replies.

    Attributes:
        journal: is told what happens.
    """

    def __init__(
        self,
        grace: float,
        ended: Callable[[Session], None],
        disturbed: Callable[[], None],
        clock: Callable[[], float],
        working: int = MIN_WORKING,
    ) -> None:
        self.journal: Journal = _NoJournal()
        self._limit = working
        self._growth = threading.Lock()
        self._grace = grace
        self._ended = ended
        self._disturbed = disturbed
        self._clock = clock
        self._sessions: dict[str, Session] = {}
        self._mutex = threading.Lock()

    def __len__(self) -> int:
        return len(self._sessions)

    @contextmanager
    def entered(self, name: str, proof: Proof, connection: Closable) -> Iterator[tuple[Slot, bool]]:
        """Count a connection as one of its client's for the time of the `with`.

        It is the newest one of its slot from then on, and earlier ones are hung up.

        Args:
            name: of the session.
            proof: what the client claims.
            connection: to hang up when it has become void.

        Yields:
            The slot, and whether it goes on where it was.

        Raises:
            ForgottenError: there is no slot of the incarnation that the client claims.
            ProtocolError: too many sessions or slots, or a newer connection of the slot has come already.
        """
        slot, resumed, replaced = self._enter(name, proof, connection)
        session = slot.session
        try:
            if replaced is not None:
                replaced.close()
            self._disturbed()
            yield slot, resumed
        finally:
            with self._mutex:
                session.connected -= 1
                session.since = self._clock()
            if session.ended:
                slot.close()

    def _enter(self, name: str, proof: Proof, connection: Closable) -> tuple[Slot, bool, Slot | None]:
        with self.journal.order, self._mutex:
            session = self._sessions.get(name)
            slot = session.slots.get(proof.slot) if session else None
            if proof.incarnation and (slot is None or slot.incarnation != proof.incarnation):
                raise ForgottenError(
                    "this server had given the client up: it is not known whether its last request was applied"
                )
            if slot is not None and proof.attempt <= slot.attempt:
                raise ProtocolError("a newer connection of this slot has come already")
            if session is None:
                if len(self._sessions) >= MAX_SESSIONS:
                    raise ProtocolError(f"this server has {MAX_SESSIONS} clients already")
                session = self._sessions[name] = Session(name, self._clock())
            replaced = None
            if slot is None or not proof.incarnation:
                # a client that claims nothing has never asked for anything in the slot that was made for it
                if slot is None and len(session.slots) >= MAX_SLOTS:
                    raise ProtocolError(f"one client has {MAX_SLOTS} connections already")
                replaced, slot = slot, Slot(session, proof.acknowledged, self._growing, proof.slot)
                session.slots[proof.slot] = slot
                session.box = proof.box or session.box
                self.journal.opened(slot)
            else:
                slot.hang_up()
                # what the client has an answer to, and was never applied here, were reads at another server
                slot.replies.last = max(slot.replies.last, proof.acknowledged)
            slot.attempt = proof.attempt
            slot.connection = connection
            session.box = proof.box or session.box
            slot.timeout = min(max(proof.timeout, 0.0), LOCK_TIMEOUT) if proof.timeout == proof.timeout else 0.0
            session.connected += 1
            return slot, bool(proof.incarnation), replaced

    def slot(self, session: Session, number: int) -> Slot:
        """Return a slot of a session.

        Args:
            session: of the client.
            number: of the slot.

        Returns:
            The slot.

        Raises:
            ProtocolError: there is none.
        """
        with self._mutex:
            if number not in session.slots:
                raise ProtocolError(f"this client has no slot {number}")
            return session.slots[number]

    @property
    def working(self) -> int:
        """Bytes that all slots keep for what is under way."""
        return sum(slot.working for slot in self.slots())

    @contextmanager
    def _growing(self, nbytes: int) -> Iterator[None]:
        """Check that a slot may take so much more, and let no other one take any meanwhile."""
        with self._growth:
            if nbytes:
                poll(lambda: self._fits(nbytes), timeout=WORD, every=WORD / 100, error=self._full)
            yield

    @contextmanager
    def _following(self, nbytes: int) -> Iterator[None]:
        """Let a slot take what another server has let it take already."""
        with self._growth:
            self._fits(nbytes)
            yield

    def _fits(self, nbytes: int) -> bool:
        """Return whether there is room for so much more, once idle slots have given back theirs if need be."""
        if self.working + nbytes <= self._limit:
            return True
        for slot in self.slots():
            slot.shrink()
        return self.working + nbytes <= self._limit

    def _full(self) -> PoolFullError:
        return PoolFullError(
            f"this server's {len(self.slots())} connections keep {format_bytes(self.working)} for requests that"
            f" are under way, and {format_bytes(self._limit)} are the most. HINT: let fewer clients or threads"
            " use large buffers at one time, or start the server with a larger --memory: it may be a quarter"
        )

    def has_client_of(self, box: bytes) -> bool:
        """Return whether a client is connected that belongs to this box."""
        with self._mutex:
            return any(each.connected and each.box == box for each in self._sessions.values())

    def end_void_ones(self, tokens: Tokens) -> None:
        """End every session whose token was revoked or has expired."""
        with self._mutex:
            sessions = list(self._sessions.values())
        for session in sessions:
            if session.token is not None:
                try:
                    tokens.check(session.token)
                except AuthenticationError:
                    self.end(session)

    def slots(self) -> list[Slot]:
        """Return every slot of every session."""
        with self._mutex:
            return [slot for session in self._sessions.values() for slot in session.slots.values()]

    def end(self, session: Session, but: Slot | None = None) -> None:
        """End a session at once: its client said goodbye.

        Args:
            session: of the client.
            but: a slot that stays until its connection ends, so that the goodbye can be answered.
        """
        with self._mutex:
            self._take_out(session)
        for slot in list(session.slots.values()):
            if slot is not but:
                slot.close()

    def end_silent_ones(self) -> None:
        """End every session whose grace has gone by."""
        limit = self._clock() - self._grace
        with self.journal.order, self._mutex:
            silent = [each for each in self._sessions.values() if not each.connected and each.since < limit]
            for session in silent:
                self.journal.ended(session)
                self._take_out(session)
        for session in silent:
            for slot in list(session.slots.values()):
                slot.close()

    # ---- of a server that stands in for another

    def find(self, name: str, number: int) -> Slot:
        """Return a slot by its session's name; it must be there."""
        with self._mutex:
            return self._sessions[name].slots[number]

    def open(self, name: str, box: bytes, number: int, incarnation: bytes, last: int) -> Slot:
        """Make a slot as another server has made it."""
        with self._mutex:
            session = self._sessions.setdefault(name, Session(name, self._clock()))
            session.box = box or session.box
            replaced = session.slots.get(number)
            slot = session.slots[number] = Slot(session, last, self._following, number)
            slot.incarnation = incarnation
        if replaced is not None:
            replaced.close()
        return slot

    def end_named(self, name: str) -> None:
        """End a session as another server has ended it."""
        with self._mutex:
            session = self._sessions[name]
        self.end(session)

    def sessions(self) -> list[Session]:
        """Return all sessions."""
        with self._mutex:
            return list(self._sessions.values())

    def take_over(self, seconds: float) -> None:
        """Serve all sessions from now on, each of which lasts for so long without a connection, or for the grace."""
        with self._mutex:
            for session in self._sessions.values():
                session.since = self._clock() + max(0.0, seconds - self._grace)
                for slot in session.slots.values():
                    slot.growing = self._growing

    def hang_up(self) -> None:
        """End all connections."""
        for slot in self.slots():
            slot.hang_up()

    def close(self) -> None:
        """End all sessions."""
        with self._mutex:
            sessions = list(self._sessions.values())
        for session in sessions:
            self.end(session)

    def _take_out(self, session: Session) -> None:
        """Forget a session and take back what it held, before another one of its name can hold anything."""
        if self._sessions.get(session.name) is session:
            del self._sessions[session.name]
        session.ended = True
        self._ended(session)
