"""Requests that wait for something at a server: each is woken when that has changed, and for nothing else."""

import threading
from collections.abc import Callable
from typing import Protocol, TypeAlias

Key: TypeAlias = tuple[str, str | int]
"""What is waited for: its kind, and its name or number."""


class Asking(Protocol):
    """Who makes a request that may wait."""

    @property
    def holder(self) -> str:
        """Name of the session that gets what is handed out."""

    def check(self) -> None:
        """Check that somebody still asks: nothing is handed out to a session that has ended."""


class WaitingRoom:
    """Where requests wait, by what they wait for. Thread-safe.

    Args:
        clock: seconds of a monotonic clock.

    Attributes:
        mutex: guards what is waited for; held by whoever changes it, and while `ready` is asked. Reentrant.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.mutex = threading.RLock()
        self._clock = clock
        self._stopping = False
        self._conditions: dict[Key, tuple[threading.Condition, int]] = {}  # and how many wait for it

    def wait_until(
        self,
        key: Key,
        ready: Callable[[], bool],
        timeout: float,
        caller: Asking,
        *,
        again: Callable[[], float] = lambda: float("inf"),
    ) -> bool:
        """Wait until `ready()` is true, and return whether it is.

        Args:
            key: what is waited for.
            ready: called with the mutex held, after every `wake` of the key.
            timeout: seconds.
            caller: who waits.
            again: seconds after which to look again though nobody has woken it.

        Returns:
            Whether it was true at the end.

        Raises:
            ConnectionAbortedError: nobody asks any more.
        """
        deadline = self._clock() + timeout
        with self.mutex:
            while True:
                caller.check()
                if ready():
                    return True
                left = deadline - self._clock()
                if left <= 0 or self._stopping:
                    return False
                condition, count = self._conditions.get(key) or (threading.Condition(self.mutex), 0)
                self._conditions[key] = condition, count + 1
                try:
                    condition.wait(min(left, max(0.0, again())))
                finally:
                    condition, count = self._conditions[key]
                    self._conditions[key] = condition, count - 1
                    if count == 1:
                        del self._conditions[key]

    def wake(self, key: Key) -> None:
        """Have everybody who waits for this look again."""
        with self.mutex:
            if key in self._conditions:
                self._conditions[key][0].notify_all()

    def wake_all(self) -> None:
        """Have everybody look again, also whether somebody still asks."""
        with self.mutex:
            for condition, _ in self._conditions.values():
                condition.notify_all()

    def stop(self) -> None:
        """End every wait, now and from now on."""
        with self.mutex:
            self._stopping = True
            self.wake_all()
