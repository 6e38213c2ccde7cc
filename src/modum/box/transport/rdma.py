"""RDMA: reads are one-sided; what changes memory is put one-sidedly into a ring and applied by the server.

A read fetches the chunk's mark before and after it, and counts if both are the same even number: then nobody changed
the chunk in between, and it was seen at one moment. After a few tries it goes through the server, which takes the lock.
"""

import threading
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Final, Self

import numpy as np

from modum.box.client.connection import Connection
from modum.box.client.pool import ConnectionPool
from modum.box.memory.segment import mark_offset, trailer_offset
from modum.box.protocol.frames import Op
from modum.box.protocol.layout import Piece
from modum.box.protocol.limits import CHUNK
from modum.box.protocol.messages import SegmentInfo, Welcome
from modum.box.rdma.client import OneSidedConnection, RemoteSegment, rail_of
from modum.box.rdma.devices import rails, why_no_rails
from modum.box.transport.base import Attachment, Transport, Work, call
from modum.box.transport.requests import frames
from modum.errors import BufferNotFoundError

_BATCH: Final = 16
"""Chunks that are read between two looks at the marks."""
_TRIES: Final = 3
"""How often a chunk that others change is read before the server is asked for it."""
_WORD: Final = 8

_turns = count()


@dataclass(slots=True)
class RdmaAttachment(Attachment):
    """A hold on a segment that is read one-sidedly.

    Attributes:
        segment: what the links know it by.
    """

    segment: RemoteSegment

    def close(self) -> None:
        """Have every link drop its key to the segment."""
        self.segment.closed = True


class RdmaTransport(Transport):
    """For a server with an RDMA device. Every connection has a one-sided connection, a link, beside it.

    Args:
        connections: connections over TCP.
        devices: the server's devices; the k-th of them is connected with the k-th of this machine.
        timeout: seconds for the first link, which is made at once.

    Raises:
        TransportError: it cannot be made; the message says why.
    """

    name = "rdma"
    plain = True

    def __init__(self, connections: ConnectionPool, devices: list[str], timeout: float) -> None:
        super().__init__(connections)
        self._pairs = list(zip(rails(), range(len(devices)), strict=False))
        self._idle: dict[int, OneSidedConnection] = {}  # by slot; nobody uses them now
        self._mutex = threading.Lock()
        self._closed = False
        self._timeout = timeout
        with self._linked("connect") as (_, link):
            self._route = f"{self.name} {link.devices}"

    @classmethod
    def why_not(cls, welcome: Welcome | None = None) -> str | None:
        """Return None where both ends have an active port of an RDMA device; whether UCX is there turns out in use."""
        if welcome is not None and welcome.read_only:
            return "the token is read-only, and keys allow writing"
        if welcome is not None and not welcome.rails:
            return why_no_rails() or f"the server cannot: {welcome.no_rails}"
        return why_no_rails()

    @classmethod
    def open(cls, connections: ConnectionPool, welcome: Welcome, *, threads: int, timeout: float) -> Self:
        """Make the first link at once: see `Transport.open`."""
        return cls(connections, welcome.rails, timeout)

    @property
    def route(self) -> str:
        """The transport, and the devices of both ends that were connected first."""
        return self._route

    def attach(self, info: SegmentInfo, timeout: float) -> RdmaAttachment:
        """Do nothing yet: the server is asked for the key when the first read needs it."""
        return RdmaAttachment(info, RemoteSegment(info.segment))

    def run(self, work: Work) -> None:
        """Read one-sidedly, or put the numbers into the ring and name them: see `Transport.run`."""
        with self._linked(work) as (connection, link):
            pieces = self._read(link, work) if work.op is Op.READ else list(work.pieces)
            if pieces:
                connection.transact(frames(work, pieces, staged=True), work.timeout, work, link)

    def version(self, attachment: Attachment, timeout: float, at_least: int = 0) -> int:
        """Return the version in the server's memory; to wait, ask the server."""
        words = np.empty(2, np.uint64)
        offset = trailer_offset(attachment.info.segment_bytes)
        phase = f"version of buffer {attachment.info.name!r}"
        with self._linked(phase) as (_, link):
            link.wait([link.read(_own(attachment).segment, offset, _octets(words))], timeout, phase)
        deleted, version = map(int, words)
        if deleted:
            raise BufferNotFoundError(f"buffer {attachment.info.name!r} was deleted")
        return version if version >= at_least else super().version(attachment, timeout, at_least)

    def leave(self, timeout: float) -> None:
        """Close the one-sided connections, then say goodbye."""
        self._close_links()
        super().leave(timeout)

    def close(self) -> None:
        """Close all connections; one in use is closed when it comes back."""
        self._close_links()
        super().close()

    def _close_links(self) -> None:
        with self._mutex:
            self._closed = True
            while self._idle:
                self._idle.popitem()[1].close()

    @contextmanager
    def _linked(self, phase: object) -> Iterator[tuple[Connection, OneSidedConnection]]:
        """Lend a connection that the server knows, and its link.

        Both come back unless they were left in the middle of something.
        """
        with self.connections.connection(self._timeout, phase) as connection:
            open_still = connection.socket is not None and not connection.lost
            known = open_still or connection.connect(self._timeout, phase).resumed
            link = self._idle.pop(connection.slot, None)
            if link and not known:
                link.close()  # its ring was given back with the session
                link = None
            link = link or self._new_link(connection)
            try:
                yield connection, link
            finally:
                with self._mutex:
                    keep = connection.clean and not link.busy and not self._closed
                    if keep:
                        self._idle[connection.slot] = link
                if not keep:
                    link.close()

    def _new_link(self, connection: Connection) -> OneSidedConnection:
        device, rail = self._pairs[rail_of(next(_turns), len(self._pairs))]
        link = OneSidedConnection(
            self.address, connection.slot, rail, device, lambda *what: call(connection, *what), self._timeout
        )
        link.ask = self.call  # from now on the connection may be in the middle of something
        return link

    def _read(self, link: OneSidedConnection, work: Work) -> list[Piece]:
        """Read one-sidedly, and return the pieces that others changed so often that the server has to be asked."""
        attachment = _own(work.target)
        assert work.data is not None
        octets = _octets(work.data)
        waiting = deque(chunk for piece in work.pieces for chunk in piece.chunks())
        tries: Counter[Piece] = Counter()
        busy: list[Piece] = []
        first = min(piece.offset for piece in waiting) // CHUNK
        last = max(piece.offset for piece in waiting) // CHUNK
        before = self._look(link, attachment, first, last, work)
        while waiting:
            batch = [waiting.popleft() for _ in range(min(_BATCH, len(waiting)))]
            transfers = [
                link.read(attachment.segment, piece.offset, octets[piece.start : piece.start + piece.nbytes])
                for piece in batch
            ]
            link.wait(transfers, work.timeout, work)
            after = self._look(link, attachment, first, last, work)
            for piece in batch:
                index = piece.offset // CHUNK - first
                if before[index] == after[index] and before[index] % 2 == 0:
                    continue
                tries[piece] += 1
                (waiting if tries[piece] < _TRIES else busy).append(piece)
            before = after
        return busy

    @staticmethod
    def _look(link: OneSidedConnection, attachment: RdmaAttachment, first: int, last: int, work: Work) -> list[int]:
        """Return the marks of the chunks `first` to `last`, all fetched after this was called."""
        words = np.empty(1 + last - first + 1, np.uint64)
        size = attachment.info.segment_bytes
        octets = _octets(words)
        looks = [
            link.read(attachment.segment, trailer_offset(size), octets[:_WORD]),
            link.read(attachment.segment, mark_offset(size, first), octets[_WORD:]),
        ]
        link.wait(looks, work.timeout, work)
        deleted, *marks = words.tolist()
        if deleted:
            raise BufferNotFoundError(f"buffer {attachment.info.name!r} was deleted")
        return marks


def _own(attachment: Attachment) -> RdmaAttachment:
    assert isinstance(attachment, RdmaAttachment)
    return attachment


def _octets(array: np.ndarray) -> memoryview:
    return array.view(np.uint8).data
