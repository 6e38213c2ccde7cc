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
from modum.waiting import Deadline

_BUSY: Final = (errno.EAGAIN, errno.EACCES)
_FLOCK: Final = struct.Struct("hhqqi4x")  # l_type, l_whence, l_start, l_len, l_pid
_FIRST_PAUSE: Final = 20e-6
"""Seconds between two tries for a lock that somebody holds; they double up to the longest pause."""
_LONGEST_PAUSE: Final = 1e-3


class Locks:
    """One party's locks on a segment's chunks, through its own open file description.

    Two threads of a party may use them at one time for different chunks.

    Args:
        descriptor: of the segment's file; it is opened again here.
        name: of the buffer, for errors.
        nbytes: of the segment.
    """

    def __init__(self, descriptor: int, name: str, nbytes: int) -> None:
        self.name = name
        self._trailer = trailer_offset(nbytes)
        self._file = os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC)

    def close(self) -> None:
        """Drop every lock, and close the file description."""
        os.close(self._file)

    def _set(self, kind: int, start: int, nbytes: int = 1) -> None:
        fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, start, nbytes, 0))

    def take(self, offset: int, nbytes: int, exclusive: bool) -> bool:
        """Lock the chunks of the bytes [offset, offset + nbytes).

        Args:
            offset: first byte.
            nbytes: how many.
            exclusive: to change them; otherwise shared, to read them.

        Returns:
            False if somebody else holds one of them, and none was locked.

        Raises:
            OSError: the kernel has no such locks.
        """
        start = offset - offset % CHUNK
        try:
            self._set(fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK, start, offset + nbytes - start)
        except OSError as error:
            if error.errno not in _BUSY:
                raise
            return False
        return True

    def drop(self, offset: int, nbytes: int) -> None:
        """Unlock the chunks of the bytes [offset, offset + nbytes)."""
        start = offset - offset % CHUNK
        self._set(fcntl.F_UNLCK, start, offset + nbytes - start)

    def take_trailer(self, timeout: float) -> None:
        """Lock the trailer, which is held for no longer than two writes to memory.

        Args:
            timeout: seconds.

        Raises:
            DeadlineError: it stayed locked for `timeout` seconds.
        """
        pause: Pause | None = None
        while True:
            try:
                self._set(fcntl.F_WRLCK, self._trailer)
                return
            except OSError as error:
                if error.errno not in _BUSY:
                    raise
            if not (pause := pause or Pause(timeout))():
                raise DeadlineError(f"the trailer of buffer {self.name!r} stayed locked for {timeout:g} s: {STUCK}")

    def drop_trailer(self) -> None:
        """Unlock the trailer."""
        self._set(fcntl.F_UNLCK, self._trailer)


STUCK: Final = "its holder is stopped or hung (a dead holder loses its locks)"


class Pause:
    """Sleeps a little longer at every call, up to a millisecond; a call returns False once time is up.

    Args:
        timeout: seconds.
    """

    def __init__(self, timeout: float) -> None:
        self._deadline = Deadline(timeout)
        self._pause = _FIRST_PAUSE

    def __call__(self) -> bool:
        """Sleep, and return whether there is time for another try."""
        if self._deadline.passed:
            return False
        time.sleep(self._pause)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        return True
