"""Which groups are alive: every group's leader holds a lease, and everybody counts them."""

from __future__ import annotations

import threading
import time
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING

from modum.errors import DeadlineError, LeaseLostError

if TYPE_CHECKING:
    from modum.box import Box, Lease

LEASE_SECONDS = 30.0
"""A group whose leader has not been heard of for so long (stopped, or cut off) counts as dead."""

HEARTBEAT_SECONDS = LEASE_SECONDS / 3

POLL_SECONDS = 0.05
"""How often `Membership.wait_for_others` looks again."""


class Membership:
    """This worker's view of the groups that train ``name``; the group's leader also keeps its lease alive."""

    def __init__(self, box: Box, name: str, *, leader: bool) -> None:
        self._box = box
        self._prefix = f"{name}/group/"
        self._name = self._prefix + uuid.uuid4().hex[:12]
        self._leader = leader
        self._lease: Lease | None = None
        # the heartbeat must not take the lease again while `leave` gives it up
        self._guard = threading.Lock()
        self.groups = 1
        """Groups alive when last counted, this one included."""
        self.beat()

    def beat(self) -> None:
        """Renew the lease (or take it anew, if it was lost meanwhile) and count the groups."""
        with self._guard:
            if self._leader:
                self._renew()
        self.groups = max(1, len(self._box.leases(self._prefix)))

    def leave(self) -> None:
        """Give the lease up: this group takes part no longer."""
        with self._guard:
            lease, self._lease, self._leader = self._lease, None, False
            if lease is not None:
                with suppress(LeaseLostError):
                    lease.release()

    def wait_for_others(self, timeout: float) -> None:
        """Wait until no other group is alive.

        Raises:
            DeadlineError: some still were after ``timeout`` seconds; the message names their sessions.
        """
        deadline = time.monotonic() + timeout
        while others := [lease for lease in self._box.leases(self._prefix) if lease.name != self._name]:
            if time.monotonic() >= deadline:
                holders = ", ".join(lease.holder for lease in others)
                raise DeadlineError(
                    f"{len(others)} other groups (sessions {holders}) were still training after "
                    f"{timeout:g} s; give finish() a longer timeout, or look whether they hang"
                )
            time.sleep(POLL_SECONDS)

    def _renew(self) -> None:
        if self._lease is not None:
            try:
                self._lease.renew()
            except LeaseLostError:
                self._lease = None
        if self._lease is None:
            self._lease = self._box.lock(self._name, ttl=LEASE_SECONDS, timeout=LEASE_SECONDS)
