"""A backup's end of replication: it does what its primary does, in the same order."""

import socket
import threading
import time
from typing import Final

from modum.box.protocol.frames import Header, Op, parse_header
from modum.box.protocol.limits import HEADER_BYTES
from modum.box.protocol.messages import Join, decode
from modum.box.protocol.replication import Beat, Begin, Did, Ended, Opened, Record, Replied, Settled
from modum.box.server.core import Core
from modum.box.server.replication.log import ACK, Unasked, outcome
from modum.box.server.sessions import Reply, Slot
from modum.box.sockets import Stream, receive_exactly, send_all
from modum.errors import MismatchError, ProtocolError

_LONGEST: Final = 1 << 40
"""Bytes of a record: the first one has everything but numbers."""


class _Nobody:
    """In place of a client's connection, which is one to the primary."""

    def shutdown(self, how: int, /) -> None:
        """Do nothing."""


class Follower:
    """What one backup has of its primary.

    Args:
        core: has nothing yet.
        begin: with what it begins.
        connection: from the primary, after `begin`.

    Attributes:
        core: does what the primary does.
        heard: when a record last came, in seconds of this machine's monotonic clock.
        stopped: whether it does nothing more.

    Raises:
        MismatchError: this server's pool is smaller than the primary's.
        PoolFullError: it has not enough room.
    """

    def __init__(self, core: Core, begin: Begin, connection: Stream) -> None:
        if core.budget.limit < begin.memory:
            raise MismatchError(
                f"a pool of {core.budget.limit} bytes cannot stand in for one of {begin.memory}."
                " HINT: give all memory servers of the box the same --memory"
            )
        self.core = core
        self.heard = time.monotonic()
        self.stopped = False
        self._connection = connection
        self._doing = threading.Lock()
        core.identifier = begin.identifier
        core.clock.go_on_from(begin.now)
        core.segments.take_over(begin.segments, begin.last, begin.doomed)
        core.primitives.take_over(begin.primitives)
        core.membership.take_over(begin.box, decode(begin.join, Join) if begin.join else None)
        for session in begin.sessions:
            for state in session.slots:
                slot = core.sessions.open(session.name, session.box, state.number, state.incarnation, state.last)
                slot.moved = state.moved
                slot.connection = _Nobody()

    def stop(self) -> None:
        """Do nothing more, and answer nothing more; what is being done now comes to its end first."""
        self.stopped = True
        try:
            self._connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it is closed already
        with self._doing:
            pass

    def follow(self, number: int) -> None:
        """Do what comes, and say so, until the connection ends.

        Args:
            number: of the record `begin`.

        Raises:
            ProtocolError: what comes breaks the format.
            OSError: the connection broke.
        """
        connection = self._connection
        send_all(connection, [ACK.pack(number, 0)])
        while (header := receive_header(connection)) is not None:
            with self._doing:
                if self.stopped:
                    return
                self.heard = time.monotonic()
                number += 1
                if header.sequence != number:
                    raise ProtocolError(f"record {header.sequence} came after record {number - 1}")
                sum_ = self._copy(connection, header) if header.op is Op.WRITE else self._do(connection, header)
                send_all(connection, [ACK.pack(number, sum_)])

    def _copy(self, connection: Stream, header: Header) -> int:
        """Take a chunk as it is at the primary."""
        memory = self.core.segments.numbered(header.segment).mapping.bytes
        receive_exactly(connection, memory[header.offset : header.offset + header.count].data)
        return 0

    def _do(self, connection: Stream, header: Header) -> int:
        record = receive_record(connection, header)
        sessions = self.core.sessions
        match record:
            case Did(session, number, now):
                return self._did(connection, sessions.find(session, number), now)
            case Replied(session, number):
                reply, payload = receive_frame(connection)
                sessions.find(session, number).replies.remember(reply.sequence, Reply(reply, payload))
            case Opened(session, number, incarnation, acknowledged, box):
                slot = sessions.open(session, box, number, incarnation, acknowledged)
                slot.connection = _Nobody()
            case Settled(session, number, sequence):
                sessions.find(session, number).settle(sequence)
            case Ended(session):
                sessions.end_named(session)
            case Beat(now):
                self.core.clock.go_on_from(now)
            case Begin():
                raise ProtocolError("a primary begins in the middle")
        return 0

    def _did(self, connection: Stream, slot: Slot, now: float) -> int:
        """Do what a client has asked of the primary, and remember the reply."""
        header = receive_header(connection)
        if header is None:
            raise ConnectionError("the connection ended in the middle of a record")
        slot.begin()
        payload = (
            memoryview(bytearray(header.payload))
            if header.op >= Op.CALL
            else slot.room(header.sequence, header.payload)
        )
        if header.payload:
            receive_exactly(connection, payload)
        assert slot.connection is not None
        try:
            with self.core.clock.held(now):
                reply = self.core.dispatch.answer(Unasked(slot, slot.connection), header, payload)
        except ProtocolError:
            return outcome(header, None)
        slot.replies.remember(header.sequence, reply)
        if reply.farewell:
            slot.close()
        return outcome(header, reply)


def receive_header(connection: Stream, *, idle: bool = True) -> Header | None:
    """Return the header of the next frame, or None where the connection has ended; `idle` waits as long as it takes."""
    data = memoryview(bytearray(HEADER_BYTES))
    if not receive_exactly(connection, data, idle=idle):
        return None
    return parse_header(data, limit=_LONGEST)


def receive_frame(connection: Stream) -> tuple[Header, memoryview]:
    """Receive the next frame.

    Args:
        connection: from another server.

    Returns:
        Its header and its payload.

    Raises:
        ConnectionError: the connection ended.
    """
    header = receive_header(connection, idle=False)
    if header is None:
        raise ConnectionError("the connection ended before a frame")
    payload = memoryview(bytearray(header.payload))
    if header.payload:
        receive_exactly(connection, payload)
    return header, payload


def receive_record(connection: Stream, header: Header) -> Record:
    """Return the record whose header has come."""
    payload = memoryview(bytearray(header.payload))
    receive_exactly(connection, payload)
    return decode(payload, Record)  # type: ignore[arg-type]  # a union of messages
