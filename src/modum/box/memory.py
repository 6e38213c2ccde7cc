"""Segments: anonymous shared memory, cut into chunks that are locked by the kernel.

A segment is a sealed `memfd`: nothing lies in /dev/shm, and nobody can shrink it under the others. After the data
comes the trailer: a page that says whether it was deleted, its version and its counts, so that clients that map the
memory keep them without the server; and a mark for every chunk, which is odd while the chunk is changed and goes up
each time, for those who read from afar without a lock.

Locks are open-file-description byte-range locks (fcntl(2), F_OFD_SETLK). The kernel drops them when their holder dies.
They belong to the open file description, so every party reopens the memfd to have its own: see `Locks`.
"""

import errno
import fcntl
import mmap
import os
import struct
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from modum.box.kernels import STORAGE, Array, Kernels
from modum.box.wire import CHUNK, DATA_OPS, Op
from modum.errors import BufferNotFoundError, DeadlineError

PAGE: Final = mmap.PAGESIZE
_BUSY: Final = (errno.EAGAIN, errno.EACCES)
_FLOCK: Final = struct.Struct("hhqqi4x")  # l_type, l_whence, l_start, l_len, l_pid
_FIRST_PAUSE: Final = 20e-6  # seconds between two tries for a lock that somebody holds; doubles up to the longest
_LONGEST_PAUSE: Final = 1e-3

# words of the trailer, 8 bytes each; the counts of operation `op` are at 2 op (operations) and 2 op + 1 (bytes)
_DELETED: Final = 0
_VERSION: Final = 1
_FIRST_MARK: Final = PAGE // 8


def create_memfd(name: str, nbytes: int) -> int:
    """An anonymous file of `nbytes` and a trailer, sealed against a change of size; returns its descriptor."""
    descriptor = os.memfd_create(f"modum:{name}"[:200], os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, file_bytes(nbytes))
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return descriptor


def file_bytes(nbytes: int) -> int:
    """Bytes of the file of a segment of `nbytes`: whole pages, and the trailer."""
    chunks = -(-nbytes // CHUNK)
    return trailer_offset(nbytes) + PAGE + -(-8 * chunks // PAGE) * PAGE


def trailer_offset(nbytes: int) -> int:
    """Where the trailer of a segment of `nbytes` begins in its file."""
    return -(-nbytes // PAGE) * PAGE


def mark_offset(nbytes: int, chunk: int) -> int:
    """Where the mark of a chunk lies in the file of a segment of `nbytes`."""
    return trailer_offset(nbytes) + 8 * (_FIRST_MARK + chunk)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Operations finished and bytes moved, by operation."""

    operations: Counter[str]
    nbytes: Counter[str]

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(self.operations + other.operations, self.nbytes + other.nbytes)


class Mapping:
    """A segment's memory in this process. Several parties (threads with their own `Locks`) may use one mapping.

    It is unmapped when the last reference to it, or to an array of it, is gone.
    """

    def __init__(self, descriptor: int, nbytes: int) -> None:
        memory = mmap.mmap(descriptor, file_bytes(nbytes))
        self.bytes: NDArray[np.uint8] = np.frombuffer(memory, np.uint8, nbytes)
        self.trailer = memoryview(memory)[trailer_offset(nbytes) :].cast("Q")

    @property
    def address(self) -> int:
        """Where the file begins in this process."""
        return self.bytes.ctypes.data

    def typed(self, dtype: str) -> Array:
        """The data as elements of `dtype`."""
        return self.bytes.view(STORAGE[dtype])

    @property
    def version(self) -> int:
        """Number of published operations."""
        return self.trailer[_VERSION]

    def begin(self, offset: int, nbytes: int) -> None:
        """The chunks of bytes [offset, offset + nbytes), which are locked, begin to change."""
        for word in _marks(offset, nbytes):
            self.trailer[word] |= 1  # it is odd already where the last one to change the chunk died of it

    def end(self, offset: int, nbytes: int) -> None:
        """They have changed. Stores are seen in their order on x86-64; others lock, or read through the server."""
        for word in _marks(offset, nbytes):
            self.trailer[word] += 1

    def mark_deleted(self) -> None:
        """Tell every party that the buffer was deleted."""
        self.trailer[_DELETED] = 1

    def check(self, name: str) -> None:
        """Raise BufferNotFoundError if the buffer was deleted."""
        if self.trailer[_DELETED]:
            raise BufferNotFoundError(f"buffer {name!r} was deleted")

    def traffic(self) -> Traffic:
        """What was done with this segment so far, by all parties."""
        return Traffic(
            Counter({op.name.lower(): self.trailer[2 * op] for op in DATA_OPS}),
            Counter({op.name.lower(): self.trailer[2 * op + 1] for op in DATA_OPS}),
        )


def _marks(offset: int, nbytes: int) -> range:
    return range(_FIRST_MARK + offset // CHUNK, _FIRST_MARK + (offset + nbytes - 1) // CHUNK + 1)


class Locks:
    """One party's locks on a segment's chunks, through its own open file description. Two threads of a party
    may use it for different chunks."""

    def __init__(self, descriptor: int, name: str, nbytes: int) -> None:
        self.name = name
        self._trailer = trailer_offset(nbytes)
        self._file = os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC)

    def close(self) -> None:
        """Drop every lock."""
        os.close(self._file)

    def _set(self, kind: int, start: int, nbytes: int = 1) -> None:
        fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, start, nbytes, 0))

    def take(self, offset: int, nbytes: int, exclusive: bool) -> bool:
        """Lock the chunks of bytes [offset, offset + nbytes), shared or exclusive; False if somebody else has one."""
        start = offset - offset % CHUNK
        try:
            self._set(fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK, start, offset + nbytes - start)
        except OSError as error:
            if error.errno not in _BUSY:
                raise
            return False
        return True

    def drop(self, offset: int, nbytes: int) -> None:
        """Unlock the chunks of bytes [offset, offset + nbytes)."""
        start = offset - offset % CHUNK
        self._set(fcntl.F_UNLCK, start, offset + nbytes - start)

    def take_trailer(self, patience: float) -> None:
        """Lock the trailer; who holds it does so for two writes to memory.

        Raises:
            DeadlineError: it stayed locked for `patience` seconds.
        """
        pause: Pause | None = None
        while True:
            try:
                self._set(fcntl.F_WRLCK, self._trailer)
                return
            except OSError as error:
                if error.errno not in _BUSY:
                    raise
            if not (pause := pause or Pause(patience))():
                raise DeadlineError(f"the trailer of buffer {self.name!r} stayed locked for {patience:g} s: {_STUCK}")

    def drop_trailer(self) -> None:
        """Unlock the trailer."""
        self._set(fcntl.F_UNLCK, self._trailer)


_STUCK: Final = "its holder is stopped or hung (a dead holder loses its locks)"


class Pause:
    """Waits a little longer at every call, up to a millisecond; False once `patience` seconds have gone by."""

    def __init__(self, patience: float) -> None:
        self._deadline = time.monotonic() + patience
        self._pause = _FIRST_PAUSE

    def __call__(self) -> bool:
        if time.monotonic() >= self._deadline:
            return False
        time.sleep(self._pause)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        return True


class Piece(NamedTuple):
    """A part of an operation, in bytes: `offset` in the segment, `start` in the caller's array.

    With a `source_offset` in a source segment, either side lies within one chunk; otherwise within one stripe.
    """

    offset: int
    start: int
    nbytes: int
    source_offset: int = 0

    def chunks(self) -> "list[Piece]":
        """The piece cut at the borders of chunks; for one without a source."""
        start, end = self.offset, self.offset + self.nbytes
        borders = [start, *range(start - start % CHUNK + CHUNK, end, CHUNK), end]
        return [Piece(low, self.start + low - start, high - low) for low, high in pairwise(borders)]


@dataclass(frozen=True, slots=True)
class Party:
    """One party's hold on one segment: the memory and the party's own locks."""

    name: str
    dtype: str
    mapping: Mapping
    locks: Locks

    def finish(self, op: Op, nbytes: int, *, publish: bool, patience: float) -> None:
        """Count a finished operation, and raise the version if it is to be published.

        Reads are counted without the lock: two at the same moment may count as one, which nothing depends on.
        """
        words = self.mapping.trailer
        if op is not Op.READ:
            self.locks.take_trailer(patience)
        words[2 * op] += 1
        words[2 * op + 1] += nbytes
        if op is not Op.READ:
            words[_VERSION] += publish
            self.locks.drop_trailer()

    def publish(self, patience: float) -> None:
        """Raise the version by one."""
        self.locks.take_trailer(patience)
        self.mapping.trailer[_VERSION] += 1
        self.locks.drop_trailer()


def apply(
    kernels: Kernels,
    op: Op,
    target: Party,
    waiting: deque[Piece],
    *,
    patience: float,
    data: Array | None = None,
    source: Party | None = None,
    factor: Any = None,
    difference: bool = False,
) -> None:
    """Run one operation on pieces of `target`, each under its chunks' locks; the busy ones are come back to.

    Args:
        kernels: which arithmetic.
        op: a data operation.
        target: the segment that is read or changed.
        waiting: parts that share no chunk. It is empty at the end; several threads of one party may share it.
        patience: seconds without any progress after which to give up.
        data: the caller's 1-D array for READ, WRITE, ADD and EXCHANGE, in the dtype of the segment.
        source: the other segment for COPY, SCALE and AXPY.
        factor: scalar from `factor_for`.
        difference: EXCHANGE leaves d in `data` rather than the moved values.

    Raises:
        DeadlineError: a chunk stayed locked by somebody else; the pieces before it are done.
        BufferNotFoundError: the buffer was deleted meanwhile.
    """
    kernels.prepare(target.dtype)
    target.mapping.check(target.name)
    act = _action(kernels, op, target, data, source, factor, difference)
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
        elif not (pause := pause or Pause(patience))():
            raise DeadlineError(
                f"{op.name.lower()} on buffer {target.name!r}: chunk {piece.offset // CHUNK} stayed locked"
                f" for {patience:g} s: {_STUCK}"
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
    difference: bool,
) -> Callable[[Piece], None]:
    """What to do with a locked piece."""
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
            move = kernels.difference if difference else kernels.exchange
            return lambda piece: move(dtype, *from_caller(piece), factor)
