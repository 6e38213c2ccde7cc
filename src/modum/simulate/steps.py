"""Random step and failure times. Each group has its own generator, so that runs can be repeated."""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from modum.averaging.schedule import WINDOW, hiding_steps

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from modum.simulate.scenario import Scenario

BLOCK = 256
"""Number of steps drawn at a time."""


class StepTimes:
    """The step times of a group: each is that of the slowest member.

    Args:
        scenario: scenario with the mean and the spread.
        slowdowns: factor of each member; 1 for no straggler.
        generator: generator of the random numbers.
    """

    def __init__(self, scenario: Scenario, slowdowns: NDArray[np.float64], generator: np.random.Generator) -> None:
        self._scenario = scenario
        self._slowdowns = slowdowns
        self._generator = generator
        self._slowest = float(slowdowns.max())
        self._ends = np.zeros(1)
        self._position = 0
        self.constant = scenario.step_seconds * self._slowest if scenario.spread == 0 else None
        """Seconds of every step, if they are all equal."""

    @property
    def recent(self) -> float:
        """The median of the last steps, as `modum.averaging` measures it to choose an interval."""
        if self.constant is not None:
            return self.constant
        ends = self._ends[max(0, self._position - WINDOW) : self._position + 1].tolist()
        if len(ends) < 2:
            return self._scenario.step_seconds * self._slowest
        middle: float = median(after - before for before, after in pairwise(ends))
        return middle

    def take(self, steps: int) -> float:
        """Return the total seconds of the next `steps` steps."""
        if self.constant is not None:
            return steps * self.constant
        total = 0.0
        while steps:
            if self._position == len(self._ends) - 1:
                self._ends = np.concatenate(([0.0], np.cumsum(self._draw())))
                self._position = 0
            end = min(self._position + steps, len(self._ends) - 1)
            total += float(self._ends[end] - self._ends[self._position])
            steps -= end - self._position
            self._position = end
        return total

    def beyond(self, seconds: float, most: int) -> tuple[int, float]:
        """Return the fewest steps, at most `most`, that take at least `seconds`, and their total seconds."""
        if self.constant is not None:
            steps = min(most, hiding_steps(seconds, self.constant))
            return steps, steps * self.constant
        steps, total = 0, 0.0
        while steps < most and total < seconds:
            total += self.take(1)
            steps += 1
        return steps, total

    def _draw(self) -> NDArray[np.float64]:
        members = len(self._slowdowns)
        count = max(1, BLOCK // members)
        scenario = self._scenario
        shape = (count, members)
        if scenario.distribution == "lognormal":
            sigma = math.sqrt(math.log1p(scenario.spread**2))
            times = self._generator.lognormal(-sigma * sigma / 2, sigma, shape)
        else:
            times = 1 - scenario.spread + self._generator.exponential(scenario.spread, shape)
        slowest: NDArray[np.float64] = (times * self._slowdowns).max(axis=1)
        return slowest * scenario.step_seconds


def time_to_failure(scenario: Scenario, workers: int, generator: np.random.Generator) -> float:
    """Return the seconds until the first of `workers` fails."""
    if scenario.failure_seconds is None:
        return math.inf
    return float(generator.exponential(scenario.failure_seconds / workers))


def slowdowns(scenario: Scenario) -> NDArray[np.float64]:
    """Return the slowdown of every worker; the stragglers are spread over the ranks."""
    workers = scenario.cluster.workers
    factors = np.ones(workers)
    if scenario.stragglers:
        factors[np.arange(scenario.stragglers) * workers // scenario.stragglers] = scenario.slowdown
    return factors
