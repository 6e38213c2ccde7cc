"""What a memory server does with a request, once it has arrived whole and in order."""

import logging
import math
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

import numpy as np

from modum.box.kernels import FLOATING, STORAGE, Array, factor_for, portable
from modum.box.memory.apply import Party, apply
from modum.box.protocol.frames import LAST, PRESENT, PUBLISH, STAGED, Header, Op, Status
from modum.box.protocol.layout import Piece
from modum.box.protocol.limits import CHUNK, MAX_DIMENSIONS, MAX_NAME, MAX_WAIT, WINDOW
from modum.box.protocol.messages import (
    AwaitSnapshot,
    Bye,
    CounterAdd,
    CounterWait,
    Create,
    Delete,
    Doom,
    Doomed,
    Join,
    LeaseAcquire,
    LeaseRelease,
    LeaseRenew,
    Link,
    ListBuffers,
    ListLeases,
    Look,
    Open,
    Publish,
    QueueDone,
    QueueLook,
    QueueOpen,
    QueueTake,
    Reach,
    Request,
    ServerStatistics,
    TakeSnapshot,
    ValueGet,
    ValuePut,
    Version,
    Wake,
    decode_request,
    encode,
    failure_of,
)
from modum.box.rdma.server import Reachable
from modum.box.server.membership import Membership
from modum.box.server.primitives import Primitives
from modum.box.server.rights import allowed, check_frame, check_name
from modum.box.server.segments import Segments, check_create
from modum.box.server.sessions import Caller, Reply, Session, Sessions, Slot
from modum.box.server.snapshots import WRITTEN, Snapshots
from modum.box.server.waiting import WaitingRoom
from modum.box.sockets import Stream, send_frame
from modum.box.tokens import Token
from modum.errors import BufferNotFoundError, ModumError, ProtocolError, SnapshotError

log = logging.getLogger("modum.server")

_SOURCED: Final = frozenset({Op.COPY, Op.SCALE, Op.AXPY})


class Dispatch:
    """Does what clients ask for. Thread-safe.

    Args:
        segments: the server's memory.
        primitives: what it keeps besides.
        room: where requests wait.
        membership: to which box it belongs.
        sessions: its clients.
        reachable: what it offers over RDMA.
        statistics: what to answer `Look` with.
        snapshots: writes them; None if the server has no folder for them.
    """

    def __init__(
        self,
        segments: Segments,
        primitives: Primitives,
        room: WaitingRoom,
        membership: Membership,
        sessions: Sessions,
        reachable: Reachable,
        statistics: Callable[[Token], ServerStatistics],
        snapshots: Snapshots | None,
    ) -> None:
        self._segments = segments
        self._sessions = sessions
        self._reachable = reachable
        self._statistics = statistics
        self._room = room
        self._primitives = primitives
        self._membership = membership
        self._snapshots = snapshots

    def wake(self) -> None:
        """Have every waiter look again, also whether somebody still asks."""
        self._room.wake_all()

    def end_session(self, session: Session) -> None:
        """Take back what a session held."""
        self._primitives.end_session(session.name)

    def answer(self, caller: Caller, header: Header, payload: memoryview) -> Reply:
        """Do what is asked for, and return the reply; what goes wrong with it is a reply too.

        Args:
            caller: who asks.
            header: of the request.
            payload: of the request.

        Returns:
            The reply.

        Raises:
            ProtocolError: the request breaks the wire format; the connection is to be closed.
            ConnectionAbortedError: nobody asks any more, and nothing was done.
        """
        try:
            check_frame(caller.token, header.op)
            if header.op < Op.CALL:
                return self._operate(caller, header, payload)
            request = allowed(caller.token, decode_request(payload), self._name_of)
            result = encode(self._call(caller, request))
            return Reply(Header(header.op, header.sequence, len(result)), result, isinstance(request, Bye))
        except (ProtocolError, ConnectionAbortedError):
            raise
        except (ModumError, ValueError) as error:
            return _failure(header, error)
        except Exception as error:
            log.exception("request %s failed", header.op.name)
            return _failure(header, ModumError(f"internal error: {error!r}"))

    def await_turn(self, caller: Caller, request: Request, wait: float) -> None:
        """Wait until a request that changes something, and may have to wait for it, would not have to.

        Args:
            caller: who asks.
            request: what is asked for; other requests do not wait.
            wait: seconds that it may wait.

        Raises:
            ConnectionAbortedError: nobody asks any more.
            ValueError: what is asked for is not there.
        """
        match request:
            case LeaseAcquire(name):
                self._primitives.lease_wait(name, min(wait, MAX_WAIT), caller)
            case QueueTake(name):
                self._primitives.queue_wait(name, min(wait, MAX_WAIT), caller)

    def hand_over(self, connection: Stream, caller: Caller, header: Header, repeated: bool) -> None:
        """Pass a descriptor of a segment's memory to a client of this machine, over its Unix socket."""
        descriptor: int | None = None
        try:
            check_frame(caller.token, header.op)
            check_name(caller.token, self._name_of(header.segment))
            descriptor = self._segments.duplicate(header.segment)
            reply = Reply(Header(header.op, header.sequence), b"")
        except ModumError as error:
            reply = _failure(header, error)
        if not repeated:
            caller.slot.replies.remember(header.sequence, reply)
        if descriptor is None:
            send_frame(connection, reply.header, reply.payload)
            return
        try:
            # an encrypted connection takes no descriptors, and says so
            socket.send_fds(cast("socket.socket", connection), [reply.header.pack()], [descriptor])
        finally:
            os.close(descriptor)

    # ---- numbers

    def _operate(self, caller: Caller, header: Header, payload: memoryview) -> Reply:
        op, slot = header.op, caller.slot
        with slot.using:
            target = slot.party(self._segments, header.segment)
            source = slot.party(self._segments, header.source) if op in _SOURCED else None
            for party in (target, source):
                if party:
                    check_name(caller.token, party.name)
            _check_range(target, header.offset, header.count)
            if source:
                _check_range(source, header.source_offset, header.count)
                if source.dtype != target.dtype:
                    raise ProtocolError(f"{op.name} from {source.dtype} to {target.dtype}")
            if op is Op.EXCHANGE and target.dtype not in FLOATING:
                raise ProtocolError(f"EXCHANGE with a buffer of {target.dtype}")
            compression = header.compression
            if compression and target.dtype != "float32":
                raise ProtocolError(f"EXCHANGE in {compression.name} with a buffer of {target.dtype}, not of float32")
            staged = bool(header.flags & STAGED)
            room = slot.room(header.sequence, header.count, staged=staged) if op is Op.READ else payload
            data: Array = np.frombuffer(room, np.uint8 if compression else STORAGE[target.dtype])
            apply(
                portable,
                op,
                target,
                deque([Piece(header.offset, 0, header.count, header.source_offset)]),
                timeout=caller.timeout,
                data=data,
                source=source,
                factor=factor_for(target.dtype, header.factor),
                leave="present" if header.flags & PRESENT else "difference",
                compression=compression,
                check=caller.check,
            )
            slot.moved += header.count
            if header.flags & LAST:
                publish = bool(header.flags & PUBLISH)
                target.finish(op, slot.moved, publish=publish, timeout=caller.timeout)
                slot.moved = 0
                if publish:
                    self._room.wake(("version", header.segment))
        answered = op in (Op.READ, Op.EXCHANGE)
        numbers = room if answered and not staged else memoryview(b"")
        if compression:
            numbers = numbers[: compression.answered(header.count // STORAGE[target.dtype].itemsize)]
        flags = STAGED if answered and staged else 0
        return Reply(
            Header(op, header.sequence, len(numbers), flags, offset=header.offset, count=header.count), numbers
        )

    # ---- everything else

    def _call(self, caller: Caller, request: Any) -> Any:
        segments, shared, slot = self._segments, self._primitives, caller.slot
        session = slot.session
        if len(name := getattr(request, "name", "").encode()) > MAX_NAME:
            raise ValueError(f"names have at most {MAX_NAME} bytes, this one has {len(name)}")
        if not isinstance(request, Join | Look | Bye):
            self._membership.check(session.box)
        wait = getattr(request, "wait", 0.0)
        if not 0 <= wait < math.inf:
            raise ValueError(f"a wait has 0 seconds or more, not {wait}")
        wait = min(wait, MAX_WAIT)
        match request:
            case Join():
                session.box = request.digest
                self._membership.check(session.box, request)
            case Create():
                if len(request.shape) > MAX_DIMENSIONS:
                    raise ValueError(f"shapes have at most {MAX_DIMENSIONS} dimensions, not {len(request.shape)}")
                check_create(request)
                made, replaced = segments.create(request)
                self._forget(replaced)
                return made.info()
            case Open(name):
                return segments.named(name).info()
            case Doom(name, incarnation):
                doomed = segments.doom(name, incarnation)
                self._forget(doomed.number)
                return doomed.incarnation
            case Doomed(name):
                return segments.doomed(name)
            case Delete(name, incarnation):
                self._forget(segments.delete(name, incarnation))
            case ListBuffers(prefix, after):
                return [segment.info() for segment in segments.page(prefix, after)]
            case Version(segment, at_least):
                return self._version(caller, segment, at_least, wait)
            case Publish(segment):
                with slot.using:
                    slot.party(segments, segment).publish(caller.timeout)
                self._room.wake(("version", segment))
            case Wake(segment):
                self._room.wake(("version", segment))
            case CounterAdd(name, amount):
                return shared.counter_add(name, amount)
            case CounterWait(name, at_least):
                return shared.counter_wait(name, at_least, wait, caller)
            case LeaseAcquire(name, ttl):
                if not 0 < ttl < math.inf:
                    raise ValueError(f"a lease lasts for a positive, finite number of seconds, not {ttl}")
                return shared.lease_acquire(name, ttl, wait, caller)
            case LeaseRenew(name, grant):
                shared.lease_renew(name, grant)
            case LeaseRelease(name, grant):
                shared.lease_release(name, grant)
            case ListLeases(prefix, after):
                return shared.leases(prefix, after)
            case QueueOpen(name, size):
                shared.queue_open(name, size)
            case QueueTake(name):
                return shared.queue_take(name, wait, caller)
            case QueueDone(name, item, unfinished):
                shared.queue_done(name, session.name, item, unfinished=unfinished)
            case QueueLook(name):
                return shared.queue_look(name)
            case ValuePut(name, value, expected):
                return shared.value_put(name, value, expected)
            case ValueGet(name):
                return shared.value_get(name, wait, caller)
            case Link(number, rail):
                other = self._sessions.slot(session, number)
                with other.growing(0 if other.ring else WINDOW * CHUNK):
                    other.ring, linked = self._reachable.link(other.ring, rail)
                return linked
            case Reach(segment, rail):
                found = segments.numbered(segment)
                return self._reachable.reach(segment, found.spec.name, found.mapping, rail)
            case Look():
                return self._statistics(caller.token)
            case TakeSnapshot():
                return self._writer().ask()
            case AwaitSnapshot(attempt):
                writer = self._writer()
                self._room.wait_until(WRITTEN, lambda: writer.statistics().attempts >= attempt, wait, caller)
                return writer.statistics()
            case Bye():
                # before it is answered: whoever is told that the client has gone finds what it held free
                self._sessions.end(session, but=slot)
        return None

    def _name_of(self, segment: int) -> str:
        return self._segments.numbered(segment).spec.name

    def _writer(self) -> Snapshots:
        if self._snapshots is None:
            raise SnapshotError(
                "this server has no folder for snapshots. HINT: start it with modum server --snapshot-dir DIR, or the"
                " job with modum run --snapshot-dir DIR"
            )
        return self._snapshots

    def _forget(self, number: int | None) -> None:
        """Let go of a segment that was deleted."""
        if number is not None:
            for slot in self._sessions.slots():
                slot.forget(number)
            self._reachable.forget(number)

    def _version(self, caller: Caller, number: int, at_least: int, wait: float) -> int:
        """Return a version once it is high enough, or what it is after a while.

        Clients that map the memory raise it without a word to the server, unless the memory says that somebody waits.
        """
        mapping = self._segments.numbered(number).mapping
        if mapping.version < at_least and wait > 0:
            self._note_waiting(caller.slot, number, 1)
            try:
                self._room.wait_until(
                    ("version", number),
                    lambda: self._segments.numbered(number).mapping.version >= at_least,
                    wait,
                    caller,
                )
            finally:
                self._note_waiting(caller.slot, number, -1)
        return self._segments.numbered(number).mapping.version

    def _note_waiting(self, slot: Slot, number: int, count: int) -> None:
        try:
            with slot.using:
                slot.party(self._segments, number).note_waiting(count, slot.timeout)
        except BufferNotFoundError:
            pass  # it was deleted: nobody raises its version any more


def _check_range(party: Party, offset: int, count: int) -> None:
    size = party.mapping.bytes.size
    if offset + count > size:
        raise ProtocolError(
            f"bytes [{offset}, {offset + count}) are outside buffer {party.name!r}, which has {size} here"
        )
    item = STORAGE[party.dtype].itemsize
    if offset % item or count % item:
        raise ProtocolError(f"{count} bytes at {offset} are not whole elements of {party.dtype} ({item} bytes)")


def _failure(header: Header, error: Exception) -> Reply:
    payload = encode(failure_of(error))
    return Reply(
        Header(
            header.op,
            header.sequence,
            len(payload),
            status=Status.FAILED,
            offset=header.offset,
            count=header.count,
        ),
        payload,
    )
