"""To which box a server belongs: one list of servers, and one place in it."""

import threading
from collections.abc import Callable

from modum.box.protocol.messages import Join
from modum.box.snapshots.manifest import Place
from modum.errors import MismatchError


class Membership:
    """The list of servers to which what a server keeps belongs. Thread-safe.

    Args:
        is_empty: whether the server keeps nothing.
        has_client_of: whether a client of the box with this digest is there.
    """

    def __init__(self, is_empty: Callable[[], bool], has_client_of: Callable[[bytes], bool]) -> None:
        self._is_empty = is_empty
        self._has_client_of = has_client_of
        self._box = b""  # digest of the list
        self._join: Join | None = None  # the same, for errors
        self._restored: Place | None = None
        self._mutex = threading.Lock()

    @property
    def place(self) -> Place | None:
        """The server's place in its box, as far as it is known."""
        with self._mutex:
            return self._restored if self._join is None else Place(self._join.index, len(self._join.servers))

    def restore(self, place: Place | None) -> None:
        """Say which place the server had when what it keeps was written into a snapshot."""
        with self._mutex:
            self._restored = place

    @property
    def joined(self) -> tuple[bytes, Join | None]:
        """Digest of the list to which it belongs, and the list, as far as they are known."""
        with self._mutex:
            return self._box, self._join

    def take_over(self, box: bytes, join: Join | None) -> None:
        """Belong to the list to which another server belongs."""
        with self._mutex:
            self._box, self._join = box, join

    def check(self, box: bytes, join: Join | None = None) -> None:
        """Check that a client means the box to which others and what is kept here belong; a free server takes any.

        Args:
            box: digest that the client belongs to; empty if it has not joined any.
            join: the list itself, where the client tells it.

        Raises:
            MismatchError: it means another one, or the server came back from a snapshot with another place.
        """
        if not box:
            return
        with self._mutex:
            empty = self._is_empty()
            if self._box in (b"", box) or (empty and not self._has_client_of(self._box)):
                if join is not None and not empty:
                    self._check_place(join)
                elif join is not None:
                    self._restored = None  # nothing is left of what came back, so it may have any place now
                self._box = box
                self._join = join if join else self._join if self._join and self._join.digest == self._box else None
                return
            ours, theirs = (
                f"number {each.index} of the box {', '.join(each.addresses)}" if each else "a part of another box"
                for each in (self._join, join)
            )
            raise MismatchError(
                f"this server is {ours}; the client asks for {theirs}. The list of servers and its order are the box's"
                " identity: use the same list everywhere"
            )

    def _check_place(self, join: Join) -> None:
        had = self._restored
        if had is not None and (had.index, had.servers) != (join.index, len(join.servers)):
            raise MismatchError(
                f"this server came back from a snapshot as number {had.index} of {had.servers}; the client has it as"
                f" number {join.index} of {len(join.servers)}. HINT: restore as many servers as there were, and name"
                " them in the same order"
            )
