"""A primary's end of replication: it orders what is done, and has a backup do the same before it is acknowledged.

Whatever changes something is done with the log's mutex held: first its record goes to the backup, then it is done here.
So both do the same in the same order, and what they compute is the same, to the bit: the sum of the replies is
compared. A reply goes out when the backup has said that it has done all that the reply may depend on.
"""

import socket
import struct
import threading
import time
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgspec

from modum.box.protocol.frames import Header, Op
from modum.box.protocol.limits import CHUNK, LOCK_TIMEOUT
from modum.box.protocol.messages import (
    AwaitSnapshot,
    CounterAdd,
    CounterWait,
    Doomed,
    Link,
    ListBuffers,
    ListLeases,
    Look,
    Open,
    QueueLook,
    Reach,
    Request,
    TakeSnapshot,
    ValueGet,
    Version,
    Wake,
    decode_request,
    encode,
)
from modum.box.protocol.replication import (
    Beat,
    Begin,
    Did,
    Ended,
    Opened,
    Record,
    Replied,
    SessionState,
    Settled,
    SlotState,
)
from modum.box.server.core import Core
from modum.box.server.performing import Send
from modum.box.server.replication.outbox import Outbox
from modum.box.server.sessions import Caller, Reply, Session, Slot
from modum.box.sockets import Stream, receive_exactly, send_all, send_frame
from modum.errors import BufferNotFoundError, ProtocolError

LEASE: Final = 0.5
"""Seconds after a record was sent for which its answer lets the primary serve reads: the backup waits for longer
before it becomes the primary."""
ACK: Final = struct.Struct("<QI")
"""Number of a record, and the sum of what came of it."""
_PAUSE: Final = 5e-4
"""Seconds between two chunks that are copied, in which others have their turn."""
_LOOK: Final = 0.1

READS: Final = (
    Open, Doomed, ListBuffers, Version, Wake, CounterWait, ListLeases, QueueLook, ValueGet, Look, Link, Reach,
    TakeSnapshot, AwaitSnapshot,
)  # fmt: skip
"""Requests that change nothing: they are not replicated, and asked for again they are done again."""


class Unasked(Caller):
    """Who makes a request that is done, whoever still asks for it."""

    @property
    def timeout(self) -> float:
        """Seconds that it waits for a locked chunk."""
        return LOCK_TIMEOUT

    def check(self) -> None:
        """Do not ask."""


def outcome(header: Header, reply: Reply | None) -> int:
    """Return a sum of what came of a request, for primary and backup to compare; None: it broke the wire format."""
    if reply is None:
        return 1
    answer = reply.payload if header.op >= Op.CALL else b""
    return zlib.crc32(answer, reply.header.status + 2)


def _reads(request: Request) -> bool:
    return isinstance(request, READS) or (isinstance(request, CounterAdd) and not request.amount)


class _Link:
    """The connection to a backup, and what is under way over it."""

    def __init__(self, connection: Stream, first: int) -> None:
        self.connection = connection
        self.first = first
        self.done = first - 1
        self.trouble = ""
        self.heard = time.monotonic()
        self.sent: deque[tuple[int, float]] = deque()
        self.outcomes: dict[int, int] = {}
        self.missing: set[tuple[int, int]] = set()
        """Chunks that the backup does not have yet: segment and number."""
        self.thread: threading.Thread | None = None

    def fail(self, trouble: str) -> None:
        self.trouble = self.trouble or trouble
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it is closed already


class Log:
    """What a primary does, in order; it is the performer and the journal of its core. Thread-safe.

    Args:
        core: what it is done to.
        place: of the box.

    Attributes:
        order: held by whatever changes something.
        required: whether nothing may be acknowledged that the backup has not done.
        over: whether this is not the primary any more.
        last: number of the last record.
    """

    def __init__(self, core: Core, place: int) -> None:
        self._core = core
        self._place = place
        self.order = threading.RLock()
        self._progress = threading.Condition()
        self.required = False
        self.over = False
        self.last = 0
        self._leased = 0.0
        self._link: _Link | None = None
        core.performer = self
        core.sessions.journal = self

    # ---- what clients ask for

    def perform(self, caller: Caller, header: Header, payload: memoryview) -> tuple[Reply, int]:
        """Do what is asked for, here and at the backup: see `Performer`."""
        slot, dispatch = caller.slot, self._core.dispatch
        body: bytes | memoryview = payload
        if header.op < Op.CALL:
            reads = header.op is Op.READ
        else:
            request: Any = decode_request(payload)
            reads = _reads(request)
            if (wait := getattr(request, "wait", 0.0)) > 0 and not reads:
                try:
                    dispatch.await_turn(caller, request, wait)
                except ValueError:
                    pass  # it is said below
                body = encode(msgspec.structs.replace(request, wait=0.0))
                header = Header(header.op, header.sequence, len(body))
        if reads:
            reply = dispatch.answer(caller, header, payload)
            slot.replies.remember(header.sequence, reply)
            return reply, self.last
        with self.order:
            caller.check()
            self._check()
            now = self._core.clock()
            self._copy_first(header)
            self._append(Did(slot.session.name, slot.number, now), header, body)
            reply_or_none: Reply | None = None
            try:
                with self._core.clock.held(now):
                    reply_or_none = dispatch.answer(Unasked(slot, caller.connection), header, memoryview(body))
                slot.replies.remember(header.sequence, reply_or_none)
            finally:
                self._compare(self.last, outcome(header, reply_or_none))
            return reply_or_none, self.last

    def recall(self, caller: Caller, header: Header, payload: memoryview) -> tuple[Reply, int]:
        """Return what was answered; what changes nothing, and was asked of another server, is done again."""
        try:
            return caller.slot.replies.reply_to(header.sequence), self.last
        except ProtocolError:
            reads = header.op is Op.READ or (header.op is Op.CALL and _reads(decode_request(payload)))
            if not reads:
                raise
        return self._core.dispatch.answer(caller, header, payload), self.last

    def settle(self, caller: Caller) -> None:
        """Wait until the backup knows of the slot: see `Performer`."""
        self.wait(self.last, caller)

    @contextmanager
    def sending(self, caller: Caller, connection: Stream) -> Iterator[Send]:
        """Send each reply once its record is safe: see `Performer`."""
        with Outbox(self.safe, self.wait, caller, connection) as outbox:
            yield outbox.put

    def safe(self, record: int) -> bool:
        """Return whether what depends on a record may be acknowledged now."""
        link = self._link
        return not self.over and (
            not self.required or (link is not None and link.done >= record and time.monotonic() < self._leased)
        )

    def wait(self, record: int, caller: Caller) -> None:
        """Wait until what depends on a record may be acknowledged.

        Args:
            record: its number.
            caller: who asks.

        Raises:
            ConnectionAbortedError: nobody asks any more, or this is not the primary any more.
        """
        with self._progress:
            while not self.safe(record):
                self._check()
                caller.check()
                self._progress.wait(_LOOK)

    def _check(self) -> None:
        if self.over:
            raise ConnectionAbortedError("another server has this place of the box now")

    # ---- the journal of sessions

    def opened(self, slot: Slot) -> None:
        """Note that a session has a new slot: see `Journal`."""
        session = slot.session
        self._append(Opened(session.name, slot.number, slot.incarnation, slot.replies.last, session.box))

    def settled(self, slot: Slot, sequence: int) -> None:
        """Note that a client has the replies up to a number: see `Journal`."""
        session = slot.session
        with self.order:
            if not session.ended and session.slots.get(slot.number) is slot:
                self._append(Settled(session.name, slot.number, sequence))

    def ended(self, session: Session) -> None:
        """Note that a session has ended without a goodbye: see `Journal`."""
        self._append(Ended(session.name))

    # ---- records

    def _append(self, record: Record, header: Header | None = None, body: bytes | memoryview = b"") -> None:
        """Send a record to the backup, if there is one; the mutex is held."""
        self.last += 1
        link = self._link
        if link is None or link.trouble:
            return
        message = encode(record)
        frame: list[bytes | memoryview] = [Header(Op.CALL, self.last, len(message)).pack(), message]
        link.sent.append((self.last, time.monotonic()))
        try:
            send_all(link.connection, frame if header is None else [*frame, header.pack(), body])
        except OSError as error:
            link.fail(f"a record could not be sent: {error}")
        if not isinstance(record, Did):
            self._compare(self.last, 0)

    def beat(self) -> None:
        """Have the backup know that this server lives, and extend what it allows; not while something else is sent."""
        if self.order.acquire(timeout=_LOOK / 2):  # whoever sends may have to be cut off by who calls this
            try:
                self._append(Beat(self._core.clock()))
            finally:
                self.order.release()

    def _compare(self, number: int, sum_: int) -> None:
        """Compare what came of a record here and at the backup, once both are known."""
        link = self._link
        if link is None or link.trouble or number < link.first:
            return
        with self._progress:
            other = link.outcomes.pop(number, None)
            if other is None:
                link.outcomes[number] = sum_
            elif other != sum_:
                link.fail(f"it did something else at record {number}")

    def _listen(self, link: _Link) -> None:
        """Take what a backup says that it has done: a thread of its own."""
        data = memoryview(bytearray(ACK.size))
        try:
            while receive_exactly(link.connection, data, idle=True):
                number, sum_ = ACK.unpack(data)
                sent = 0.0
                while link.sent and link.sent[0][0] <= number:
                    _, sent = link.sent.popleft()
                link.heard = time.monotonic()
                self._compare(number, sum_)
                with self._progress:
                    link.done = number
                    self._leased = max(self._leased, sent + LEASE)
                    self._progress.notify_all()
            link.fail("it has closed the connection")
        except OSError as error:
            link.fail(str(error))

    # ---- backups come and go

    @property
    def trouble(self) -> str:
        """What is wrong with the backup; empty if nothing is, or there is none."""
        link = self._link  # which another thread may let go of
        return link.trouble if link else ""

    @property
    def linked(self) -> bool:
        """Whether there is a backup, in the view or on its way there."""
        return self._link is not None

    def silent_for(self) -> float:
        """Seconds for which the backup has not answered what it was sent; 0 if it has answered all."""
        link = self._link
        sent = link.sent[0] if link and link.sent else None
        return 0.0 if link is None or sent is None else time.monotonic() - max(sent[1], link.heard)

    @property
    def stalled(self) -> bool:
        """Whether nothing can be acknowledged, as the backup has not been heard for too long."""
        return self.required and time.monotonic() > self._leased + LEASE

    def attach(self, connection: Stream, view: int) -> None:
        """Have a backup begin to follow, and copy everything to it.

        Args:
            connection: to the backup.
            view: the newest one of the place.

        Raises:
            ConnectionError: it could not be brought that far.
        """
        with self.order:
            link = self._link = _Link(connection, self.last + 1)
            self._append(self._beginning(view))
            for session in self._core.sessions.sessions():
                for slot in list(session.slots.values()):
                    slot.shrink()
                    for reply in slot.replies.kept():
                        self._append(Replied(session.name, slot.number), reply.header, reply.payload)
            for segment in self._core.segments.segments():
                chunks = -(-segment.spec.segment_bytes // CHUNK)
                link.missing.update((segment.number, chunk) for chunk in range(chunks))
        link.thread = threading.Thread(target=self._listen, args=(link,), name="modum-backup", daemon=True)
        link.thread.start()
        while link.missing and not link.trouble:
            with self.order:
                if link.missing:
                    self._copy(link, next(iter(link.missing)))
            time.sleep(_PAUSE)
        with self.order:
            self.required = not link.trouble
            last = self.last
        with self._progress:
            while link.done < last and not link.trouble:
                self._progress.wait(_LOOK)
        if link.trouble:  # it is in no view yet
            raise ConnectionError(link.trouble)

    def cut(self, trouble: str) -> None:
        """End the connection to the backup; what waits for it goes on waiting."""
        if self._link is not None:
            self._link.fail(trouble)

    def detach(self) -> None:
        """Let go of the backup, which is in no view any more; what waits for it waits no more."""
        with self.order:
            link, self._link = self._link, None
            self.required = False
        with self._progress:
            self._progress.notify_all()
        if link is not None:
            link.fail("it was let go of")
            if link.thread is not None:
                link.thread.join()
            link.connection.close()

    def end(self) -> None:
        """Acknowledge nothing any more: another server is the primary."""
        with self._progress:
            self.over = True
            self._progress.notify_all()
        self.detach()

    def _beginning(self, view: int) -> Begin:
        core = self._core
        segments, last, doomed = core.segments.state()
        box, join = core.membership.joined
        sessions = [
            SessionState(
                session.name,
                session.box,
                [
                    SlotState(each.number, each.incarnation, each.replies.last, each.moved)
                    for each in session.slots.values()
                ],
            )
            for session in core.sessions.sessions()
        ]
        return Begin(
            place=self._place,
            view=view,
            identifier=core.identifier,
            memory=core.budget.limit,
            now=core.clock(),
            join=encode(join) if join else b"",
            box=box,
            segments=segments,
            last=last,
            doomed=doomed,
            primitives=core.primitives.state(),
            sessions=sessions,
        )

    def _copy_first(self, header: Header) -> None:
        """Copy the chunks that a request concerns, if the backup does not have them: it is to compute the same."""
        link = self._link
        if link is None or not link.missing or header.op >= Op.CALL:
            return
        for segment, offset in ((header.segment, header.offset), (header.source, header.source_offset)):
            for chunk in range(offset // CHUNK, (offset + max(header.count, 1) - 1) // CHUNK + 1):
                if (segment, chunk) in link.missing:
                    self._copy(link, (segment, chunk))

    def _copy(self, link: _Link, which: tuple[int, int]) -> None:
        """Send a chunk; the mutex is held, so nobody changes it."""
        link.missing.discard(which)
        number, chunk = which
        try:
            numbers = self._core.segments.numbered(number).mapping.bytes[chunk * CHUNK : (chunk + 1) * CHUNK]
        except BufferNotFoundError:
            return  # it was deleted meanwhile
        self.last += 1
        link.sent.append((self.last, time.monotonic()))
        header = Header(Op.WRITE, self.last, numbers.nbytes, segment=number, offset=chunk * CHUNK, count=numbers.nbytes)
        try:
            send_frame(link.connection, header, numbers.data)
        except OSError as error:
            link.fail(f"a chunk could not be sent: {error}")
        self._compare(self.last, 0)
