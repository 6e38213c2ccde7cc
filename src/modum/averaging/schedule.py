"""When the next exchange is due."""

from __future__ import annotations

import math
import time
from collections import deque
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from modum.rules.rule import Auto

WINDOW = 9
"""Measurements whose median counts: one slow step (a compilation, an evaluation) changes nothing."""


class Schedule:
    """Counts local steps and measures what they take; ``clock`` gives seconds and never goes back."""

    def __init__(self, interval: int | Auto, clock: Callable[[], float] = time.monotonic) -> None:
        self._fixed = interval
        self._clock = clock
        self._steps_seen: deque[float] = deque(maxlen=WINDOW)
        self._exchanges_seen: deque[float] = deque(maxlen=WINDOW)
        self._resumed: float | None = None
        self.steps = 0
        self.interval = 1 if interval == "auto" else interval
        """The interval in force."""
        self._next = self.interval

    def step(self, steps: int = 1) -> None:
        """A local step has ended, or several at once; their time counts from the last `resume`."""
        if self._resumed is not None:
            self._steps_seen.append((self._clock() - self._resumed) / steps)
        self.steps += steps

    def resume(self) -> None:
        """Compute goes on."""
        self._resumed = self._clock()

    def exchanged(self, seconds: float) -> None:
        """An exchange took so long on the background thread."""
        self._exchanges_seen.append(seconds)

    @property
    def due(self) -> bool:
        return self.steps >= self._next

    @property
    def wanted(self) -> int:
        """The interval that this worker asks for: fixed, or the fewest steps that hide an exchange."""
        if self._fixed != "auto":
            return self._fixed
        if not self._exchanges_seen or not self._steps_seen:
            return self.interval
        step = max(median(self._steps_seen), 1e-9)
        return max(1, math.ceil(median(self._exchanges_seen) / step))

    def start(self, interval: int) -> None:
        """An exchange starts now; the next one is due ``interval`` steps from here."""
        self.interval = interval
        self._next = self.steps + interval
