"""Whether memory can be shared on this machine: tried out."""

import os

from modum.box.memory.locks import Locks
from modum.box.memory.segment import Mapping, create_memfd


def shared_memory_trouble() -> str | None:
    """Return why a segment cannot be made, mapped twice and locked here; None if that works."""
    nbytes = 1024
    try:
        descriptor = create_memfd("trial", nbytes)
        try:
            Mapping(descriptor, nbytes).bytes[:] = 1
            if not Mapping(descriptor, nbytes).bytes.all():
                return "what one mapping of a memfd wrote, another did not see"
            return _lock_trouble(Locks(descriptor, "trial", nbytes), Locks(descriptor, "trial", nbytes))
        finally:
            os.close(descriptor)
    except OSError as error:
        return (
            f"{error}; there is no /proc here, or the kernel or its sandbox forbids memfd_create, mmap or"
            " fcntl(F_OFD_SETLK)"
        )


def _lock_trouble(first: Locks, second: Locks) -> str | None:
    try:
        if not first.take(0, 1, exclusive=True):
            return "a chunk that nobody holds cannot be locked"
        if second.take(0, 1, exclusive=False):
            return "a locked chunk could be locked again through another open file description"
        first.drop(0, 1)
        return None if second.take(0, 1, exclusive=True) else "a chunk stayed locked after its holder let go"
    finally:
        first.close()
        second.close()
