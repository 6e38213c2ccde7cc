"""Segments: anonymous shared memory, cut into chunks that are locked by the kernel.

A segment is a sealed `memfd`: nothing lies in /dev/shm, and nobody can shrink it under the others. After the data
comes the trailer. It begins with a page that says whether the segment was deleted, its version and its counts, so that
clients that map the memory keep them without the server. A mark for every chunk follows, which is odd while the chunk
is changed and goes up each time, for those who read from afar without a lock.

Locks are open-file-description byte-range locks (fcntl(2), F_OFD_SETLK). The kernel drops them when their holder dies.
They belong to the open file description, so every party reopens the memfd to have its own: see `Locks`.
"""

import fcntl
import mmap
import os
from collections import Counter
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from modum.box.kernels import STORAGE, Array
from modum.box.protocol.frames import DATA_OPS
from modum.box.protocol.limits import CHUNK
from modum.errors import BufferNotFoundError

PAGE: Final = mmap.PAGESIZE

_SHOWN_BYTES: Final = 200
"""Of a name, in the name of its file; memfd_create(2) takes 249."""

# words of the trailer, 8 bytes each; the counts of operation `op` are at 2 op (operations) and 2 op + 1 (bytes)
_DELETED: Final = 0
VERSION: Final = 1
WAITING: Final = 16
_FIRST_MARK: Final = PAGE // 8


def create_memfd(name: str, nbytes: int) -> int:
    """Make an anonymous file of `nbytes` and a trailer, sealed against a change of size, and return its descriptor."""
    shown = f"modum:{name}".encode()[:_SHOWN_BYTES].decode(errors="ignore")
    descriptor = os.memfd_create(shown, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, file_bytes(nbytes))
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return descriptor


def file_bytes(nbytes: int) -> int:
    """Return the bytes of the file of a segment of `nbytes`: whole pages, and the trailer."""
    chunks = -(-nbytes // CHUNK)
    return trailer_offset(nbytes) + PAGE + -(-8 * chunks // PAGE) * PAGE


def trailer_offset(nbytes: int) -> int:
    """Return where the trailer of a segment of `nbytes` begins in its file."""
    return -(-nbytes // PAGE) * PAGE


def mark_offset(nbytes: int, chunk: int) -> int:
    """Return where the mark of a chunk lies in the file of a segment of `nbytes`."""
    return trailer_offset(nbytes) + 8 * (_FIRST_MARK + chunk)


@dataclass(frozen=True, slots=True)
class Traffic:
    """What was done, by name of the operation.

    Attributes:
        operations: how many have finished.
        nbytes: bytes that they moved.
    """

    operations: Counter[str]
    nbytes: Counter[str]

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(self.operations + other.operations, self.nbytes + other.nbytes)


class Mapping:
    """A segment's memory in this process. Several parties (threads with their own `Locks`) may use one mapping.

    It is unmapped when the last reference to it, or to an array of it, is gone.

    Args:
        descriptor: of the segment's file; it may be closed afterwards.
        nbytes: of the segment.

    Attributes:
        bytes: the data.
        trailer: the 64-bit words after the data.
    """

    def __init__(self, descriptor: int, nbytes: int) -> None:
        memory = mmap.mmap(descriptor, file_bytes(nbytes))
        self.bytes: NDArray[np.uint8] = np.frombuffer(memory, np.uint8, nbytes)
        self.trailer = memoryview(memory)[trailer_offset(nbytes) :].cast("Q")

    @property
    def address(self) -> int:
        """Where the file begins in this process's memory."""
        return self.bytes.ctypes.data

    def typed(self, dtype: str) -> Array:
        """Return the data as elements of `dtype`."""
        return self.bytes.view(STORAGE[dtype])

    @property
    def version(self) -> int:
        """Number of published operations."""
        return self.trailer[VERSION]

    @version.setter
    def version(self, version: int) -> None:
        self.trailer[VERSION] = version

    @property
    def deleted(self) -> bool:
        """Whether the buffer was deleted."""
        return self.trailer[_DELETED] != 0

    def begin(self, offset: int, nbytes: int) -> None:
        """Mark the chunks of the bytes [offset, offset + nbytes), which must be locked, as changing."""
        for word in _marks(offset, nbytes):
            self.trailer[word] |= 1  # it is odd already where the last one to change the chunk died of it

    def end(self, offset: int, nbytes: int) -> None:
        """Mark them as changed. Stores are seen in their order on x86-64; others lock, or read through the server."""
        for word in _marks(offset, nbytes):
            self.trailer[word] += 1

    def mark_deleted(self) -> None:
        """Tell every party that the buffer was deleted."""
        self.trailer[_DELETED] = 1

    def check(self, name: str) -> None:
        """Check that the buffer is still there.

        Args:
            name: of the buffer, for the error.

        Raises:
            BufferNotFoundError: it was deleted.
        """
        if self.deleted:
            raise BufferNotFoundError(f"buffer {name!r} was deleted")

    def traffic(self) -> Traffic:
        """Return what was done with this segment so far, by all parties."""
        return Traffic(
            Counter({op.name.lower(): self.trailer[2 * op] for op in DATA_OPS}),
            Counter({op.name.lower(): self.trailer[2 * op + 1] for op in DATA_OPS}),
        )


def _marks(offset: int, nbytes: int) -> range:
    return range(_FIRST_MARK + offset // CHUNK, _FIRST_MARK + (offset + nbytes - 1) // CHUNK + 1)
