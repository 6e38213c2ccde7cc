"""Know which members are alive, by leases in the box, one for each member."""

import contextlib
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from modum.box import Box, Lease, Value
from modum.errors import ConnectionLostError, DeadlineError, LeaseLostError, ModumError
from modum.waiting import poll

__all__ = ["Member", "Roster"]

_SESSION_SECONDS: Final = 1e9
"""The time of a lease that should end only with its session."""
_RENEWALS: Final = 3
"""How often a lease is renewed within its time."""
_POLL_SECONDS: Final = 0.05
_MOST_TEXT: Final = 4000
"""Characters of a failure's text that are kept."""


class Roster:
    """The members of a named whole in a box; any client of the box may look, join, or wait.

    Args:
        box: where the roster is kept, below `name`.
        name: name of what the members take part in.
        ttl: seconds after which a silent member counts as gone, for a process that was stopped or cut
            off; a thread renews its lease meanwhile. None: a member is there for as long as its session with
            the box, and a member that hangs must be found by the deadlines of those who wait.
    """

    def __init__(self, box: Box, name: str, *, ttl: float | None = None) -> None:
        self._box = box
        self._members = f"{name}/member/"
        self._marks = f"{name}/left/"
        self._failure = box.value(f"{name}/failure")
        self._ttl = ttl

    def join(self, member: str, *, timeout: float) -> "Member":
        """Become the member of this name; each name has at most one.

        Args:
            member: its name in the roster.
            timeout: seconds to wait while another process is that member: one that has just died may hold it for a
                moment longer.

        Returns:
            The place in the roster, until `Member.leave`.

        Raises:
            DeadlineError: another process still was; the message names its session. Nothing is left in the box.
        """
        lease = self._take(member, timeout)
        try:
            return Member(self, member, lease)
        except BaseException:
            lease.release()
            raise

    def alive(self) -> dict[str, str]:
        """Return the members that are alive now, and the session of each."""
        return {lease.name.removeprefix(self._members): lease.holder for lease in self._box.leases(self._members)}

    def wait_until_gone(
        self,
        *,
        but: str = "",
        timeout: float | None,
        error: Callable[[Mapping[str, str]], Exception] | None = None,
    ) -> None:
        """Wait until no member is there any more, whether it left or died.

        Args:
            but: name of a member that may stay.
            timeout: seconds to wait; None: no limit.
            error: makes the exception to raise after that, from the members that are there and their sessions.

        Raises:
            DeadlineError: some were still there after `timeout` seconds, unless `error` makes another one.
        """
        others: dict[str, str] = {}

        def gone() -> bool:
            nonlocal others
            others = {member: session for member, session in self.alive().items() if member != but}
            return not others

        def late() -> Exception:
            if error is not None:
                return error(others)
            return DeadlineError(f"{', '.join(others)} did not leave within {timeout:g} s")

        poll(gone, timeout=timeout, every=_POLL_SECONDS, error=late)

    def lost(self, members: Iterable[str]) -> list[str]:
        """Return those of `members` that died or never came: they are gone, but did not leave with everything done."""
        alive = self.alive()
        # the mark is made before the lease is released, so all who find the lease gone see it
        return [member for member in members if member not in alive and self._mark(member).get() is None]

    def fail(self, text: str) -> None:
        """Tell all members, present and future, that the whole has failed, unless a failure was reported already.

        Args:
            text: description of the failure; its first 4000 characters are kept.
        """
        self._failure.set_default(text[:_MOST_TEXT])

    def failure(self) -> str | None:
        """Return the text of the first failure, or None."""
        text = self._failure.get()
        return None if text is None else str(text)

    def _mark(self, member: str) -> Value:
        """Return the mark of a member that has left with everything done."""
        return self._box.value(self._marks + member)

    def _take(self, member: str, timeout: float) -> Lease:
        ttl = _SESSION_SECONDS if self._ttl is None else self._ttl
        return self._box.lock(self._members + member, ttl=ttl, timeout=timeout)


class Member:
    """A place in a roster, made by `Roster.join`, and held until it is given up or the process ends.

    A lease that was lost anyway (the process was stopped for longer than its time) is taken anew.
    """

    def __init__(self, roster: Roster, name: str, lease: Lease) -> None:
        self.name = name
        self._roster = roster
        self._lease: Lease | None = lease
        self._guard = threading.Lock()  # keeps the lease from being taken anew while it is given up
        self._left = threading.Event()
        self._thread: threading.Thread | None = None
        if roster._ttl is not None:
            every = roster._ttl / _RENEWALS
            self._thread = threading.Thread(target=self._run, args=(every,), name="modum-lease", daemon=True)
            self._thread.start()

    def leave(self, *, done: bool = False) -> None:
        """Give the place up and end the thread that renews it. Does nothing the second time.

        Args:
            done: whether this member has finished its work: then it is never among the `lost`. The box keeps a
                mark of that.

        Raises:
            ModumError: the box cannot be reached to keep the mark. A place that cannot be given up is no error: it ends
                with the session. In each case the thread has ended.
        """
        self._left.set()
        with self._guard:
            lease, self._lease = self._lease, None
        if self._thread is not None:
            self._thread.join()
        if lease is not None:
            if done:
                self._roster._mark(self.name).set(True)
            with contextlib.suppress(ModumError):
                lease.release()

    def _run(self, every: float) -> None:
        while not self._left.wait(every):
            try:
                self._renew()
            except ConnectionLostError:
                return  # the place is lost with the session, and users of the box get the error
            except ModumError:
                pass  # a slow server, or another process in this place: try again next time

    def _renew(self) -> None:
        with self._guard:
            if self._lease is not None:
                try:
                    self._lease.renew()
                except LeaseLostError:
                    self._lease = self._roster._take(self.name, timeout=0.0)
