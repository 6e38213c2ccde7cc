"""TCP: chunks are pipelined over plain sockets, and the server applies each as it lands."""

from collections.abc import Callable, Iterator

import numpy as np

from modum.box.kernels import STORAGE, portable
from modum.box.lane import Pending
from modum.box.transport.base import Attachment, Transport, Work
from modum.box.wire import CHUNK, LAST, PUBLISH, Header, Op, SegmentInfo


class TcpTransport(Transport):
    """The server moves and combines the numbers; what crosses the wire is what the operation needs, once."""

    name = "tcp"

    @classmethod
    def unavailable(cls) -> str | None:
        """Every machine has TCP."""
        return None

    def attach(self, info: SegmentInfo, patience: float) -> Attachment:
        """Nothing to do: the server knows the segment by its number."""
        return Attachment(info)

    def run(self, work: Work) -> None:
        """See `Transport.run`."""
        with self.lanes.lane() as lane:
            lane.transact(_requests(work), work.patience, work)


def _requests(work: Work) -> Iterator[Pending]:
    op, info = work.op, work.target.info
    source = work.source.info.segment if work.source else 0
    octets = memoryview(b"") if work.data is None else work.data.view(np.uint8).data
    # the differences of an exchange land here one by one, and are subtracted while they are in the cache
    largest = min(CHUNK, max(piece.nbytes for piece in work.pieces))
    scratch = memoryview(bytearray(largest)) if op is Op.EXCHANGE and not work.difference else None
    pieces = work.pieces if work.source else [chunk for piece in work.pieces for chunk in piece.chunks()]
    for index, piece in enumerate(pieces):
        last = index == len(pieces) - 1
        pending = Pending(
            Header(
                op,
                0,
                flags=(LAST | PUBLISH if work.publish else LAST) if last else 0,
                segment=info.segment,
                offset=piece.offset,
                source=source,
                source_offset=piece.source_offset,
                factor=float(work.factor),
                count=piece.nbytes,
            )
        )
        part = octets[piece.start : piece.start + piece.nbytes]
        if op in (Op.WRITE, Op.ADD, Op.EXCHANGE):
            pending.header.payload = piece.nbytes
            pending.payload = part
        if op is Op.READ or work.difference:
            pending.sink = part
        elif scratch is not None:
            pending.sink = scratch[: piece.nbytes]
            pending.landed = _subtraction(work, part, pending.sink)
        yield pending


def _subtraction(work: Work, part: memoryview, scratch: memoryview) -> Callable[[], None]:
    dtype = work.target.info.dtype
    x, d = (np.frombuffer(memory, STORAGE[dtype]) for memory in (part, scratch))
    return lambda: portable.subtract(dtype, x, d)
