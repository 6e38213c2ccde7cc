"""The memory that a server's clients may fill, in one account: buffers, what is said of them, and small values."""

import threading

from modum.box.protocol.limits import SMALL_CHANGE
from modum.errors import PoolFullError
from modum.units import format_bytes


class Budget:
    """How much of a server's memory is taken. Thread-safe.

    Args:
        limit: bytes that may be taken.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._buffers = 0
        self._notes = 0
        self._mutex = threading.Lock()

    @property
    def used(self) -> int:
        """Bytes that are taken; the first `SMALL_CHANGE` bytes beside buffers do not count."""
        return self._buffers + max(0, self._notes - SMALL_CHANGE)

    def take(self, what: str, *, buffers: int = 0, notes: int = 0) -> None:
        """Take memory, or give it back where a number is below zero.

        Args:
            what: it is for, in errors.
            buffers: bytes of segments.
            notes: bytes of anything else that a client has the server keep.

        Raises:
            PoolFullError: there is not so much left; nothing is taken.
        """
        with self._mutex:
            before = self.used
            self._buffers += buffers
            self._notes += notes
            if before < self.used > self.limit:
                needed = self.used - before
                self._buffers -= buffers
                self._notes -= notes
                raise PoolFullError(
                    f"{what} needs {format_bytes(needed)} here, {format_bytes(max(0, self.limit - before))}"
                    f" of the pool's {format_bytes(self.limit)} are free. HINT: give modum run or modum"
                    " server a larger --memory, or add servers"
                )
