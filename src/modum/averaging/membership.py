"""Know which groups are alive: every group's leader holds a lease, and all workers count the leases."""

import uuid
from contextlib import nullcontext
from typing import Final

from modum.averaging.arrivals import Arrivals
from modum.box import Box
from modum.coordination.liveness import Roster
from modum.errors import DeadlineError
from modum.waiting import poll

__all__ = ["COUNT_SECONDS", "Membership"]

_LEASE_SECONDS: Final = 30.0
"""A group counts as dead if its leader (stopped, or cut off) has not been heard from for so long."""
_POLL_SECONDS: Final = 0.05
_SHOWN: Final = 8
COUNT_SECONDS: Final = 10.0
"""How often the groups are counted while no exchange is due."""


class Membership:
    """This worker's view of the groups that train `name`; a group is a member until its leader leaves or dies.

    Args:
        box: where the groups meet.
        name: the name of what they train.
        leader: whether this worker represents its group.
        arrivals: the groups of the job that are to come; None: whoever comes.

    Attributes:
        groups: groups alive when last counted, this one included.

    Raises:
        ModumError: the box failed; this group is not a member then.
    """

    def __init__(self, box: Box, name: str, *, leader: bool, arrivals: Arrivals | None = None) -> None:
        self._name = name
        self._arrivals = arrivals
        self._roster = Roster(box, f"{name}/group", ttl=_LEASE_SECONDS)
        self._member = self._roster.join(uuid.uuid4().hex[:12], timeout=_LEASE_SECONDS) if leader else None
        self.groups = 1
        try:
            if leader and arrivals is not None:
                arrivals.come()
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
        """Wait until all groups that are to come have come, and no other group is alive.

        Args:
            timeout: seconds.

        Raises:
            DeadlineError: other groups were still alive after `timeout` seconds, or had not come; the message names
                the sessions of the former, and the ranks and hosts of the latter.
        """
        own = "" if self._member is None else self._member.name
        others: list[str] = []
        missing: dict[int, str] = {}

        def gone() -> bool:
            nonlocal others, missing
            # in this order: who comes in between is alive
            missing = {} if self._arrivals is None else self._arrivals.missing()
            others = [session for member, session in self._roster.alive().items() if member != own]
            return not (others or missing)

        def late() -> DeadlineError:
            parts = [_missing_line(missing, self._name)] if missing else []
            if others:
                parts.append(f"{len(others)} other groups (sessions {', '.join(others)}) were still training")
            return DeadlineError(
                f"{'; '.join(parts)} after {timeout:g} s; give finish() a longer timeout, or look whether they hang"
            )

        with nullcontext() if self._arrivals is None else self._arrivals.waiting():
            poll(gone, timeout=timeout, every=_POLL_SECONDS, error=late)


def _missing_line(missing: dict[int, str], name: str) -> str:
    """Say which leaders have not come."""
    shown = [
        f"rank {rank} on {host} is connected" if host else f"rank {rank} has not connected"
        for rank, host in list(missing.items())[:_SHOWN]
    ] + ["..."] * (len(missing) > _SHOWN)
    return f"{len(missing)} other groups had not joined {name!r} ({', '.join(shown)})"
