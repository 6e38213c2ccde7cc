"""The memory that a server's clients may fill, in one account: buffers, what is said of them, and small values."""

import threading
from collections import Counter
from collections.abc import Callable

from modum.box.protocol.limits import SMALL_CHANGE
from modum.errors import PoolFullError
from modum.units import format_bytes


class Budget:
    """How much of a server's memory is taken. Thread-safe.

    Args:
        limit: bytes that may be taken.
        limit_of: returns how much of it a job may take, or None.
    """

    def __init__(self, limit: int, limit_of: Callable[[str], int | None] = lambda _: None) -> None:
        self.limit = limit
        self._limit_of = limit_of
        self._owners: Counter[str] = Counter()
        self._buffers = 0
        self._notes = 0
        self._mutex = threading.Lock()

    @property
    def used(self) -> int:
        """Bytes that are taken; the first `SMALL_CHANGE` bytes beside buffers do not count."""
        return self._buffers + max(0, self._notes - SMALL_CHANGE)

    def used_by(self, job: str) -> int:
        """Return the bytes that the names of one job take."""
        return self._owners[job]

    def take(self, what: str, *, name: str = "", buffers: int = 0, notes: int = 0) -> None:
        """Take memory, or give it back where a number is below zero.

        Args:
            what: it is for, in errors.
            name: what it is kept under; the job is what stands before the first slash.
            buffers: bytes of segments.
            notes: bytes of anything else that a client has the server keep.

        Raises:
            PoolFullError: there is not so much left, or the job may not take so much; nothing is taken.
        """
        job, slash, _ = name.partition("/")
        owner = job if slash else ""
        more = buffers + notes
        with self._mutex:
            limit = self._limit_of(owner) if owner and more > 0 else None
            if limit is not None and (used := self._owners[owner]) + more > limit:
                raise PoolFullError(
                    f"{what} needs {format_bytes(more)}; job {owner!r} may take {format_bytes(limit)} on this"
                    f" server, and has {format_bytes(used)} of it. HINT: delete buffers of the job, or raise"
                    ' "memory" of its token in the token file of the servers, which they read again by themselves'
                )
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
            if owner:
                self._owners[owner] += more
