"""Wait for a limited time: a deadline, and a loop that polls until something is there."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

__all__ = ["Deadline", "Timeouts", "poll"]

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a job's workers wait for what, in seconds: all follow from one number, larger on a slow cluster.

    Attributes:
        connect: to reach the memory servers; the number itself.

    Raises:
        ValueError: it is not positive.
    """

    connect: float = 30.0

    def __post_init__(self) -> None:
        if not self.connect > 0:
            raise ValueError(f"timeout ({self.connect:g} s) must be positive")

    @property
    def create(self) -> float:
        """For the worker that makes the shared weights."""
        return 2 * self.connect

    @property
    def meet(self) -> float:
        """For the last worker of the job, or of a group, which may take long to start and import."""
        return 4 * self.connect

    @property
    def step(self) -> float:
        """For another member of a group, or a neighbour in a pipeline, which may be compiling or evaluating."""
        return 10 * self.connect

    @property
    def others(self) -> float:
        """At the end: for the others' last blocks of samples, and last exchanges."""
        return 20 * self.connect


class Deadline:
    """The moment at which a wait ends, `timeout` seconds after this object was made.

    Args:
        timeout: seconds; None: the wait never ends.

    Attributes:
        timeout: seconds from the beginning, as given; `math.inf` for None.

    Raises:
        ValueError: it is not a number.
    """

    def __init__(self, timeout: float | None) -> None:
        self.timeout = math.inf if timeout is None else timeout
        if math.isnan(self.timeout):
            raise ValueError("a timeout is a number of seconds, or None for no end, not NaN")
        self._end = time.monotonic() + self.timeout

    @property
    def left(self) -> float:
        """Seconds left, at least 0."""
        return max(0.0, self._end - time.monotonic())

    @property
    def passed(self) -> bool:
        """Whether no time is left."""
        return time.monotonic() >= self._end


def poll(
    condition: Callable[[], Found],
    *,
    timeout: float | None,
    every: float = 0.05,
    error: Callable[[], Exception],
) -> Found:
    """Call `condition` until it returns something true, and return that.

    It is called at least once, and once more when the time is up: a process that was itself held up does not miss
    what came meanwhile.

    Args:
        condition: what to look for; an exception from it ends the wait.
        timeout: seconds to keep trying; None: no limit.
        every: seconds between two calls.
        error: makes the exception to raise after that; called only then, so that it can check what is missing.

    Returns:
        What `condition` returned.

    Raises:
        Exception: the one from `error`, if `condition` was still false after `timeout` seconds.
    """
    deadline = Deadline(timeout)
    while True:
        last = deadline.passed
        if found := condition():
            return found
        if last:
            raise error()
        time.sleep(min(every, deadline.left))
