"""Record the events of a simulated job."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field


def _seconds() -> array[float]:
    return array("d")


def _numbers() -> array[int]:
    return array("q")


@dataclass(slots=True)
class Record:
    """Individual values, in the order of virtual time."""

    begin: array[float] = field(default_factory=_seconds)
    """When each group first joined."""
    exchange_seconds: array[float] = field(default_factory=_seconds)
    """Seconds of each exchange, from its start until its correction has arrived."""
    intervals: array[int] = field(default_factory=_numbers)
    """Local steps before each exchange."""
    staleness: array[int] = field(default_factory=_numbers)
    """Exchanges of others that the shared weights took between two of one group."""
    step_ends: array[float] = field(default_factory=_seconds)
    step_counts: array[int] = field(default_factory=_numbers)
    """When steps were done, and how many (of all members of a group)."""
    alive_times: array[float] = field(default_factory=_seconds)
    alive: array[int] = field(default_factory=_numbers)
    """Number of workers that take part from each time on."""
    put_off: int = 0
    """Exchanges that were put off because the previous one still ran."""
    failures: int = 0
    lost_steps: int = 0
    """Steps lost with their workers, and done again by others if any were left."""

    def stepped(self, now: float, steps: int) -> None:
        """Record that a group ended `steps` steps at virtual time `now`."""
        self.step_ends.append(now)
        self.step_counts.append(steps)

    def changed(self, now: float, workers: int) -> None:
        """Record that `workers` workers are alive from virtual time `now` on."""
        self.alive_times.append(now)
        self.alive.append(workers)
