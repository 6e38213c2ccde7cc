"""One operation on pieces of a segment, each under its chunk locks: alike in servers and in clients that map it."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from modum.box.compression import Compression
from modum.box.kernels import STORAGE, Array, Kernels, Leave
from modum.box.memory.locks import STUCK, Locks, Pause
from modum.box.memory.segment import VERSION, WAITING, Mapping
from modum.box.protocol.frames import Op
from modum.box.protocol.layout import Piece
from modum.box.protocol.limits import CHUNK
from modum.errors import DeadlineError


@dataclass(frozen=True, slots=True)
class Party:
    """One party's hold on one segment.

    Attributes:
        name: of the buffer.
        dtype: of its elements.
        mapping: the memory, which parties of one process may share.
        locks: the party's own.
    """

    name: str
    dtype: str
    mapping: Mapping
    locks: Locks

    def finish(self, op: Op, nbytes: int, *, publish: bool, timeout: float) -> bool:
        """Count a finished operation, and raise the version if `publish` says so.

        Reads are counted without the lock: two at the same moment may count as one, which nothing depends on.

        Args:
            op: that has finished.
            nbytes: that it moved.
            publish: whether the version goes up.
            timeout: seconds to wait for the trailer's lock.

        Returns:
            Whether somebody waits for the version that was raised.
        """
        words = self.mapping.trailer
        if op is Op.READ:
            words[2 * op] += 1
            words[2 * op + 1] += nbytes
            return False
        self.locks.take_trailer(timeout)
        try:
            words[2 * op] += 1
            words[2 * op + 1] += nbytes
            words[VERSION] += publish
            return publish and words[WAITING] > 0
        finally:
            self.locks.drop_trailer()

    def publish(self, timeout: float) -> bool:
        """Raise the version by one, and return whether somebody waits for it."""
        self.locks.take_trailer(timeout)
        try:
            self.mapping.trailer[VERSION] += 1
            return self.mapping.trailer[WAITING] > 0
        finally:
            self.locks.drop_trailer()

    def note_waiting(self, count: int, timeout: float) -> None:
        """Note that so many more wait for the version at the server, or fewer; then it must be told of changes."""
        self.locks.take_trailer(timeout)
        try:
            self.mapping.trailer[WAITING] += count
        finally:
            self.locks.drop_trailer()


def apply(
    kernels: Kernels,
    op: Op,
    target: Party,
    waiting: deque[Piece],
    *,
    timeout: float,
    data: Array | None = None,
    source: Party | None = None,
    factor: Any = None,
    leave: Leave = "moved",
    compression: Compression | None = None,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Run one operation on pieces of `target`, each under its chunks' locks; come back to those that are busy.

    Args:
        kernels: which arithmetic.
        op: a data operation.
        target: the segment that is read or changed.
        waiting: parts that share no chunk. It is empty at the end; several threads of one party may share it.
        timeout: seconds without any progress after which to give up.
        data: the caller's 1-D array for READ, WRITE, ADD and EXCHANGE, in the dtype of the segment.
        source: the other segment for COPY, SCALE and AXPY.
        factor: scalar from `factor_for`.
        leave: what EXCHANGE leaves in `data`: the moved values, the difference, or what the segment had before.
        compression: of an EXCHANGE over the wire, of one piece; `data` has the bytes of the request, and those of the
            answer afterwards.
        check: called before each piece, with its chunks locked, and while waiting for locks; what it raises ends the
            operation there.

    Raises:
        DeadlineError: a chunk stayed locked by somebody else; the pieces before it are done.
        BufferNotFoundError: the buffer was deleted meanwhile.
    """
    kernels.prepare(target.dtype)
    target.mapping.check(target.name)
    if source is not None:
        source.mapping.check(source.name)
    act = _action(kernels, op, target, data, source, factor, leave, compression)
    pause: Pause | None = None
    while waiting:
        progress = False
        for _ in range(len(waiting)):
            try:
                piece = waiting.popleft()
            except IndexError:
                return  # another thread took the last one
            if not _lock(op, target, source, piece):
                # a whole stripe at once is quicker, but on contention every chunk counts
                waiting.extend([piece] if source is not None or piece.nbytes <= CHUNK else piece.chunks())
                continue
            try:
                check()
                if op is Op.READ:
                    act(piece)
                else:
                    target.mapping.begin(piece.offset, piece.nbytes)
                    act(piece)
                    target.mapping.end(piece.offset, piece.nbytes)
            finally:
                _unlock(target, source, piece)
            progress = True
        if progress:
            pause = None
            continue
        check()
        if not (pause := pause or Pause(timeout))():
            raise DeadlineError(
                f"{op.name.lower()} on buffer {target.name!r}: chunk {piece.offset // CHUNK} stayed locked"
                f" for {timeout:g} s: {STUCK}"
            )


def _lock(op: Op, target: Party, source: Party | None, piece: Piece) -> bool:
    if not target.locks.take(piece.offset, piece.nbytes, exclusive=op is not Op.READ):
        return False
    # within one chunk of one segment the exclusive lock serves both; a second request would weaken it
    if source is None or _one_chunk(target, source, piece):
        return True
    if source.locks.take(piece.source_offset, piece.nbytes, exclusive=False):
        return True
    target.locks.drop(piece.offset, piece.nbytes)
    return False


def _unlock(target: Party, source: Party | None, piece: Piece) -> None:
    target.locks.drop(piece.offset, piece.nbytes)
    if source is not None and not _one_chunk(target, source, piece):
        source.locks.drop(piece.source_offset, piece.nbytes)


def _one_chunk(target: Party, source: Party, piece: Piece) -> bool:
    return target is source and piece.offset // CHUNK == piece.source_offset // CHUNK


def _action(
    kernels: Kernels,
    op: Op,
    target: Party,
    data: Array | None,
    source: Party | None,
    factor: Any,
    leave: Leave,
    compression: Compression | None,
) -> Callable[[Piece], None]:
    """Return what to do with a locked piece."""
    dtype = target.dtype
    size = STORAGE[dtype].itemsize
    memory = target.mapping.typed(dtype)
    if source is not None:
        other = source.mapping.typed(dtype)

        def from_segment(piece: Piece) -> tuple[Array, Array]:
            here, there, count = piece.offset // size, piece.source_offset // size, piece.nbytes // size
            return memory[here : here + count], other[there : there + count]

        match op:
            case Op.COPY:
                return lambda piece: np.copyto(*from_segment(piece))
            case Op.SCALE:
                return lambda piece: kernels.scale(dtype, *from_segment(piece), factor)
            case _:
                return lambda piece: kernels.add(dtype, *from_segment(piece), factor)
    assert data is not None
    if compression is not None:
        return lambda piece: compression.exchange(
            memory[piece.offset // size : (piece.offset + piece.nbytes) // size], data, factor
        )

    def from_caller(piece: Piece) -> tuple[Array, Array]:
        here, there, count = piece.offset // size, piece.start // size, piece.nbytes // size
        return memory[here : here + count], data[there : there + count]

    def read(piece: Piece) -> None:
        numbers, out = from_caller(piece)
        np.copyto(out, numbers)

    match op:
        case Op.READ:
            return read
        case Op.WRITE:
            return lambda piece: np.copyto(*from_caller(piece))
        case Op.ADD:
            return lambda piece: kernels.add(dtype, *from_caller(piece), factor)
        case _:
            moves = {"moved": kernels.exchange, "difference": kernels.difference, "present": kernels.present}
            move = moves[leave]
            return lambda piece: move(dtype, *from_caller(piece), factor)
