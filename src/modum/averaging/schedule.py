"""Decide when the next exchange is due."""

from __future__ import annotations

import math
import time
from collections import deque
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from modum.rules.rule import Auto

WINDOW = 9
"""Measurements to take the median of, so that one slow step (a compilation, an evaluation) changes nothing."""


def hiding_steps(exchange_seconds: float, step_seconds: float) -> int:
    """Return the fewest steps that hide an exchange, at least 1; rounding errors do not add a step."""
    return max(1, math.ceil(exchange_seconds / max(step_seconds, 1e-9) - 1e-9))


class Schedule:
    """Counts local steps, measures what they take, and says when the next exchange is due.

    Args:
        interval: steps between exchanges; "auto": the fewest that hide one.
        clock: returns seconds, monotonic.

    Attributes:
        steps: steps counted so far.
        interval: the interval in force.
    """

    def __init__(self, interval: int | Auto, clock: Callable[[], float] = time.monotonic) -> None:
        self._fixed = interval
        self._clock = clock
        self._steps_seen: deque[float] = deque(maxlen=WINDOW)
        self._exchanges_seen: deque[float] = deque(maxlen=WINDOW)
        self._resumed: float | None = None
        self.steps = 0
        self.interval = 1 if interval == "auto" else interval
        self._next = self.interval

    def step(self, steps: int = 1) -> None:
        """Count one or more local steps that have ended; their time counts from the last `resume`."""
        if self._resumed is not None:
            self._steps_seen.append((self._clock() - self._resumed) / steps)
        self.steps += steps

    def resume(self) -> None:
        """Measure the next step from now on."""
        self._resumed = self._clock()

    def exchanged(self, seconds: float) -> None:
        """Note the seconds that an exchange took in the background."""
        self._exchanges_seen.append(seconds)

    def state(self) -> dict[str, int]:
        """Return the steps counted, the interval in force, and the steps that are left until an exchange is due."""
        return {"steps": self.steps, "interval": self.interval, "left": self._next - self.steps}

    def load(self, state: Mapping[str, int]) -> None:
        """Go on from what `state` has returned; a fixed interval stays this one's, and what is measured begins anew."""
        self.steps = int(state["steps"])
        if self._fixed == "auto":
            self.interval = int(state["interval"])
        self._next = self.steps + min(int(state["left"]), self.interval)

    @property
    def due(self) -> bool:
        """Whether an exchange is due."""
        return self.steps >= self._next

    @property
    def wanted(self) -> int:
        """The interval that this worker wants."""
        if self._fixed != "auto":
            return self._fixed
        if not self._exchanges_seen or not self._steps_seen:
            return self.interval
        return hiding_steps(median(self._exchanges_seen), median(self._steps_seen))

    def start(self, interval: int) -> None:
        """Note that an exchange starts: the next one is due `interval` steps from here."""
        self.interval = interval
        self._next = self.steps + interval
