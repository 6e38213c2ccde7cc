"""Locks on the chunks of a segment, kept by the kernel: open-file-description byte-range locks (fcntl(2), F_OFD_SETLK).

The kernel drops them when their holder dies. They belong to the open file description, so every party reopens the
memfd to have its own.
"""

import errno
import fcntl
import os
import struct
import time
from typing import Final

from modum.box.memory.segment import trailer_offset
from modum.box.protocol.limits import CHUNK
from modum.errors import DeadlineError

_BUSY: Final = (errno.EAGAIN, errno.EACCES)
_FLOCK: Final = struct.Struct("hhqqi4x")  # l_type, l_whence, l_start, l_len, l_pid
_FIRST_PAUSE: Final = 20e-6  # seconds between two tries for a lock that somebody holds; doubles up to the longest
_LONGEST_PAUSE: Final = 1e-3


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
                raise DeadlineError(f"the trailer of buffer {self.name!r} stayed locked for {patience:g} s: {STUCK}")

    def drop_trailer(self) -> None:
        """Unlock the trailer."""
        self._set(fcntl.F_UNLCK, self._trailer)


STUCK: Final = "its holder is stopped or hung (a dead holder loses its locks)"


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
