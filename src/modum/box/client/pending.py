"""One request on its way, and what may carry its numbers beside the connection."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from modum.box.protocol.frames import Header

SMALL: Final = 64 << 10
"""Bytes, both ways together, up to which a request is small."""
NAP_SECONDS: Final = 0.02
"""Longest sleep on a carrier's descriptor: a carrier was seen to miss a wake-up."""
_EMPTY: Final = memoryview(b"")


@dataclass(slots=True)
class Pending:
    """One request and what becomes of it.

    Attributes:
        header: its header; the connection fills in the number.
        payload: what is sent behind the header.
        prepare: called before it is sent for the first time, to write what `payload` is to have.
        sink: where the payload of the reply is to land; None takes any length, into `reply`.
        landed: called when it is there.
        reply: payload of the reply, if there is no sink.
        staged: what a carrier puts into the slot's ring before the header is sent.
    """

    header: Header
    payload: bytes | memoryview = b""
    prepare: Callable[[], None] | None = None
    sink: memoryview | None = None
    landed: Callable[[], None] | None = None
    reply: memoryview = _EMPTY
    staged: memoryview = _EMPTY

    @property
    def small(self) -> bool:
        """Whether the reply is worth waiting for without going to sleep."""
        return len(self.payload) + len(self.staged) + len(self.sink or _EMPTY) <= SMALL


class Carrier(Protocol):
    """Moves the numbers of staged requests beside the connection, into and out of the slot's ring at the server.

    It goes on by itself with what it was asked once; to ask for the same again does no harm.
    """

    @property
    def busy(self) -> bool:
        """Whether something is under way."""

    def stage(self, request: Pending) -> bool:
        """Put `request.staged` into the ring, and return whether it is there."""

    def fetch(self, request: Pending) -> bool:
        """Take the reply's numbers out of the ring into `request.sink`, and return whether they are there."""

    def progress(self) -> bool:
        """Move things on, and return whether something has come to its end.

        Returns:
            Whether a request has ended.

        Raises:
            ModumError: nothing moves any more.
        """

    def arm(self) -> bool:
        """Have `fileno` become readable when there is something to do, or return False if there is already."""

    def fileno(self) -> int:
        """Return a descriptor to sleep on, once armed, for at most `NAP_SECONDS`."""
