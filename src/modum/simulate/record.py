"""What happens in a simulated job, noted as it happens."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field


def _seconds() -> array[float]:
    return array("d")


def _numbers() -> array[int]:
    return array("q")


@dataclass(slots=True)
class Record:
    """Single values, in the order of virtual time."""

    begin: array[float] = field(default_factory=_seconds)
    """When each group came first."""
    exchange_seconds: array[float] = field(default_factory=_seconds)
    """Of each exchange, from its start until its correction had arrived."""
    intervals: array[int] = field(default_factory=_numbers)
    """Local steps before each exchange."""
    staleness: array[int] = field(default_factory=_numbers)
    """Exchanges of others that the shared weights took between two of one group."""
    step_ends: array[float] = field(default_factory=_seconds)
    step_counts: array[int] = field(default_factory=_numbers)
    """When steps were done, and how many (of all members of a group)."""
    alive_times: array[float] = field(default_factory=_seconds)
    alive: array[int] = field(default_factory=_numbers)
    """Workers that take part from each time on."""
    put_off: int = 0
    """Exchanges that came later because the one before still ran."""
    failures: int = 0
    lost_steps: int = 0
    """Steps that died with their workers, and were done again by others if anybody was left."""

    def stepped(self, now: float, steps: int) -> None:
        """Record that a group ended `steps` steps at the virtual time `now`."""
        self.step_ends.append(now)
        self.step_counts.append(steps)

    def changed(self, now: float, workers: int) -> None:
        """Record that `workers` are alive from the virtual time `now` on."""
        self.alive_times.append(now)
        self.alive.append(workers)
