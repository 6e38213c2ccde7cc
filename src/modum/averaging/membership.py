"""Know which groups are alive: every group's leader holds a lease, and all workers count the leases."""

import uuid
from collections.abc import Mapping
from typing import Final

from modum.box import Box
from modum.coordination.liveness import Roster
from modum.errors import DeadlineError

__all__ = ["COUNT_SECONDS", "Membership"]

_LEASE_SECONDS: Final = 30.0
"""A group counts as dead if its leader (stopped, or cut off) has not been heard from for so long."""
COUNT_SECONDS: Final = 10.0
"""How often the groups are counted while no exchange is due."""


class Membership:
    """This worker's view of the groups that train `name`; a group is a member until its leader leaves or dies.

    Args:
        box: where the groups meet.
        name: the name of what they train.
        leader: whether this worker represents its group.

    Attributes:
        groups: groups alive when last counted, this one included.

    Raises:
        ModumError: the box failed; this group is not a member then.
    """

    def __init__(self, box: Box, name: str, *, leader: bool) -> None:
        self._roster = Roster(box, f"{name}/group", ttl=_LEASE_SECONDS)
        self._member = self._roster.join(uuid.uuid4().hex[:12], timeout=_LEASE_SECONDS) if leader else None
        self.groups = 1
        try:
            self.count()
        except BaseException:
            self.leave()
            raise

    def count(self) -> None:
        """Count the groups."""
        self.groups = max(1, len(self._roster.alive()))

    def leave(self) -> None:
        """Leave the groups. Does nothing the second time."""
        if self._member is not None:
            self._member.leave()

    def wait_for_others(self, timeout: float) -> None:
        """Wait until no other group is alive.

        Args:
            timeout: seconds.

        Raises:
            DeadlineError: other groups were still alive after `timeout` seconds; the message names their sessions.
        """

        def late(others: Mapping[str, str]) -> DeadlineError:
            return DeadlineError(
                f"{len(others)} other groups (sessions {', '.join(others.values())}) were still training after "
                f"{timeout:g} s; give finish() a longer timeout, or look whether they hang"
            )

        own = "" if self._member is None else self._member.name
        self._roster.wait_until_gone(but=own, timeout=timeout, error=late)
