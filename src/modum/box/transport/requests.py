"""The requests that make up the part of an operation that one server does: one chunk each."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from modum.box.client.pending import Pending
from modum.box.kernels import STORAGE, portable
from modum.box.protocol.frames import CARRIES_NUMBERS, LAST, PRESENT, PUBLISH, STAGED, Header, Op
from modum.box.protocol.layout import Piece
from modum.box.protocol.limits import CHUNK, WINDOW
from modum.box.transport.base import Work


def frames(work: Work, pieces: Sequence[Piece] | None = None, *, staged: bool = False) -> Iterator[Pending]:
    """Yield the requests for an operation's part, in order.

    Args:
        work: the part.
        pieces: which pieces of it; None takes all.
        staged: the numbers go through a slot's ring, and the requests carry none.

    Yields:
        Requests of one chunk each.
    """
    op, info = work.op, work.target.info
    source = work.source.info.segment if work.source else 0
    octets = memoryview(b"") if work.data is None else work.data.view(np.uint8).data
    pieces = work.pieces if pieces is None else pieces
    if not work.source:
        pieces = [chunk for piece in pieces for chunk in piece.chunks()]
    # the differences of an exchange land here, and are subtracted while they are in the cache; what is staged may
    # land before its turn
    largest = min(CHUNK, max(piece.nbytes for piece in pieces))
    rooms = (WINDOW if staged else 1) if op is Op.EXCHANGE and work.leave == "moved" else 0
    scratch = [memoryview(bytearray(largest)) for _ in range(rooms)]
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
        if staged and not work.source:
            pending.header.flags |= STAGED
        if op in CARRIES_NUMBERS and staged:
            pending.staged = part
        elif op in CARRIES_NUMBERS:
            pending.header.payload = piece.nbytes
            pending.payload = part
        if work.leave == "present":
            pending.header.flags |= PRESENT
        if op is Op.READ or (op is Op.EXCHANGE and not scratch):
            pending.sink = part
        elif scratch:
            pending.sink = scratch[index % rooms][: piece.nbytes]
            pending.landed = _subtraction(work, part, pending.sink)
        yield pending


def _subtraction(work: Work, part: memoryview, scratch: memoryview) -> Callable[[], None]:
    dtype = work.target.info.dtype
    x, d = (np.frombuffer(memory, STORAGE[dtype]) for memory in (part, scratch))
    return lambda: portable.subtract(dtype, x, d)
