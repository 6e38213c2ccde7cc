"""The requests that make up the part of an operation that one server does: one chunk each."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from modum.box.client.pending import Pending
from modum.box.compression import Compression
from modum.box.kernels import STORAGE, portable
from modum.box.protocol.frames import CARRIES_NUMBERS, CODE_SHIFT, LAST, PRESENT, PUBLISH, STAGED, Header, Op
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
    op = work.op
    octets = memoryview(b"") if work.data is None else work.data.view(np.uint8).data
    pieces = work.pieces if pieces is None else pieces
    if not work.source:
        pieces = [chunk for piece in pieces for chunk in piece.chunks()]
    if work.compression is not None and not staged:
        yield from _compressed(work, work.compression, pieces)
        return
    # the differences of an exchange land here, and are subtracted while they are in the cache; what is staged may
    # land before its turn
    largest = min(CHUNK, max(piece.nbytes for piece in pieces))
    rooms = (WINDOW if staged else 1) if op is Op.EXCHANGE and work.leave == "moved" else 0
    scratch = [memoryview(bytearray(largest)) for _ in range(rooms)]
    for index, piece in enumerate(pieces):
        last = index == len(pieces) - 1
        pending = Pending(_header(work, piece, last=last))
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


def _header(work: Work, piece: Piece, *, last: bool) -> Header:
    """Return the header that every request of an operation has."""
    return Header(
        work.op,
        0,
        flags=(LAST | PUBLISH if work.publish else LAST) if last else 0,
        segment=work.target.info.segment,
        offset=piece.offset,
        source=work.source.info.segment if work.source else 0,
        source_offset=piece.source_offset,
        factor=float(work.factor),
        count=piece.nbytes,
    )


def _compressed(work: Work, compression: Compression, chunks: Sequence[Piece]) -> Iterator[Pending]:
    """Yield the requests of an exchange whose numbers are compressed."""
    assert work.data is not None
    size = work.data.itemsize
    largest = max(piece.nbytes for piece in chunks) // size
    # what was sent is kept until it is answered, as it may have to be sent again; answers land one after the other
    rooms = [np.empty(compression.sent(largest), np.uint8) for _ in range(min(WINDOW, len(chunks)))]
    landing = np.empty(compression.answered(largest), np.uint8)
    for index, piece in enumerate(chunks):
        x = work.data[piece.start // size : (piece.start + piece.nbytes) // size]
        room = rooms[index % len(rooms)][: compression.sent(x.size)]
        answer = landing[: compression.answered(x.size)]
        header = _header(work, piece, last=index == len(chunks) - 1)
        header.flags |= compression.code << CODE_SHIFT
        header.payload = room.size
        yield Pending(
            header,
            room.data,
            prepare=partial(compression.encode, x, room),
            sink=answer.data,
            landed=partial(compression.settle, x, answer, work.factor, work.leave, room),
        )


def _subtraction(work: Work, part: memoryview, scratch: memoryview) -> Callable[[], None]:
    dtype = work.target.info.dtype
    x, d = (np.frombuffer(memory, STORAGE[dtype]) for memory in (part, scratch))
    return lambda: portable.subtract(dtype, x, d)
