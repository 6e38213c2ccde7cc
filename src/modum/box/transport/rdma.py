"""RDMA: reads are one-sided, and what changes memory is put one-sidedly into a ring and applied by the server.

A read takes the chunk's mark before and after it, and counts if it is the same even number: then nobody changed the
chunk in between, and it was seen at one moment. After a few tries it goes through the server, which takes the lock.
"""

import threading
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import numpy as np

from modum.box.client.connection import Connection, ConnectionPool
from modum.box.memory.segment import mark_offset, trailer_offset
from modum.box.protocol.frames import Op
from modum.box.protocol.layout import Piece
from modum.box.protocol.limits import CHUNK
from modum.box.protocol.messages import SegmentInfo
from modum.box.rdma.client import OneSidedConnection, RdmaAttachment, rail_of
from modum.box.rdma.devices import rails, why_no_rails
from modum.box.transport.base import Attachment, Transport, Work, call
from modum.box.transport.requests import frames
from modum.errors import BufferNotFoundError

_BATCH = 16  # chunks that are read between two looks at the marks
_TRIES = 3  # how often a chunk that others change is read before the server is asked for it
_WORD = 8

_turns = count()


class RdmaTransport(Transport):
    """For a server with an RDMA device. Every lane has a one-sided connection beside its own.

    Args:
        lanes: connections over TCP.
        devices: the server's devices; the k-th of them is connected with the k-th of this machine.
        patience: seconds for the first connection, which is made at once.

    Raises:
        TransportError: it cannot be made; the message says why.
    """

    name = "rdma"

    def __init__(self, lanes: ConnectionPool, devices: list[str], patience: float) -> None:
        super().__init__(lanes)
        self._pairs = list(zip(rails(), range(len(devices)), strict=False))
        self._idle: dict[int, OneSidedConnection] = {}  # by lane; nobody uses them now
        self._mutex = threading.Lock()
        self._closed = False
        self._patience = patience
        with self._linked("connect") as (_, link):
            self._route = f"{self.name} {link.devices}"

    @classmethod
    def unavailable(cls) -> str | None:
        """Needs an active port of an RDMA device; that UCX is there turns out when it is used."""
        return why_no_rails()

    @property
    def route(self) -> str:
        """The transport, and the devices of both ends that were connected first."""
        return self._route

    def attach(self, info: SegmentInfo, patience: float) -> RdmaAttachment:
        """Nothing to do: the server is asked for the key when the first read needs it."""
        return RdmaAttachment(info)

    def run(self, work: Work) -> None:
        """See `Transport.run`."""
        with self._linked(work) as (lane, link):
            pieces = self._read(link, work) if work.op is Op.READ else list(work.pieces)
            if pieces:
                lane.transact(frames(work, pieces, staged=True), work.patience, work, link)

    def version(self, attachment: Attachment, patience: float, at_least: int = 0) -> int:
        """The version in the server's memory; who waits asks the server."""
        words = np.empty(2, np.uint64)
        offset = trailer_offset(attachment.info.segment_bytes)
        phase = f"version of buffer {attachment.info.name!r}"
        with self._linked(phase) as (_, link):
            link.wait([link.read(_own(attachment), offset, _octets(words))], patience, phase)
        deleted, version = map(int, words)
        if deleted:
            raise BufferNotFoundError(f"buffer {attachment.info.name!r} was deleted")
        return version if version >= at_least else super().version(attachment, patience, at_least)

    def leave(self, patience: float) -> None:
        """Close the one-sided connections, then say goodbye."""
        self._close_links()
        super().leave(patience)

    def close(self) -> None:
        """Close all connections; one in use is closed by its user."""
        self._close_links()
        super().close()

    def _close_links(self) -> None:
        with self._mutex:
            self._closed = True
            while self._idle:
                self._idle.popitem()[1].close()

    @contextmanager
    def _linked(self, phase: object) -> Iterator[tuple[Connection, OneSidedConnection]]:
        """A lane and its link, over a connection whose server knows it; both come back unless they were left in the
        middle of something."""
        with self.lanes.lane() as lane:
            known = (lane.connection is not None and not lane.lost) or lane.connect(self._patience, phase).resumed
            link = self._idle.pop(lane.number, None)
            if link and not known:
                link.close()  # its ring was given back with the session
                link = None
            link = link or self._new_link(lane)
            try:
                yield lane, link
            finally:
                with self._mutex:
                    keep = lane.clean and not link.busy and not self._closed
                    if keep:
                        self._idle[lane.number] = link
                if not keep:
                    link.close()

    def _new_link(self, lane: Connection) -> OneSidedConnection:
        device, rail = self._pairs[rail_of(next(_turns), len(self._pairs))]
        link = OneSidedConnection(
            self.address, lane.number, rail, device, lambda *what: call(lane, *what), self._patience
        )
        link.ask = self.call  # from now on the lane may be in the middle of something
        return link

    def _read(self, link: OneSidedConnection, work: Work) -> list[Piece]:
        """Read one-sidedly; the pieces that others changed so often that the server has to be asked."""
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
                link.read(attachment, piece.offset, octets[piece.start : piece.start + piece.nbytes]) for piece in batch
            ]
            link.wait(transfers, work.patience, work)
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
        """The marks of chunks `first` to `last`, all gotten after this was called."""
        words = np.empty(1 + last - first + 1, np.uint64)
        size = attachment.info.segment_bytes
        octets = _octets(words)
        looks = [
            link.read(attachment, trailer_offset(size), octets[:_WORD]),
            link.read(attachment, mark_offset(size, first), octets[_WORD:]),
        ]
        link.wait(looks, work.patience, work)
        deleted, *marks = words.tolist()
        if deleted:
            raise BufferNotFoundError(f"buffer {attachment.info.name!r} was deleted")
        return marks


def _own(attachment: Attachment) -> RdmaAttachment:
    assert isinstance(attachment, RdmaAttachment)
    return attachment


def _octets(array: np.ndarray) -> memoryview:
    return array.view(np.uint8).data
