"""A link that all flows share equally, at a rate that depends on their number (processor sharing)."""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING

import simpy

if TYPE_CHECKING:
    from collections.abc import Callable


class Flow(simpy.Event):
    """A transfer; succeeds when its last byte has arrived."""

    def __init__(self, link: SharedLink) -> None:
        super().__init__(link.environment)
        self._link = link
        self.active = True

    def cancel(self) -> None:
        """Cancel the transfer, because its sender has died."""
        self._link.cancel(self)


class SharedLink:
    """A fluid model: `rate(k)` bytes per second for each of `k` flows, as with many TCP connections.

    All flows have the same rate at any moment, so one number, the bytes that a flow from the beginning would have
    got so far, suffices to know when each ends: an arrival or departure costs O(log k), and no flow is
    touched in between.
    """

    def __init__(self, environment: simpy.Environment, rate: Callable[[int], float]) -> None:
        self.environment = environment
        self.rate = rate
        self._rates: list[float] = [0.0]
        self._flows: list[tuple[float, int, Flow]] = []
        self._numbers = count()
        self._timers = 0
        self._armed: float | None = None
        self._served = 0.0
        self._since = 0.0
        self.active = 0
        """Number of current flows."""
        self.nbytes = 0.0
        """Bytes of all flows, including cancelled ones."""
        self.busy = 0.0
        """Seconds in which there was any flow."""

    def transfer(self, nbytes: float) -> Flow:
        """Start a flow."""
        self._advance()
        flow = Flow(self)
        heappush(self._flows, (self._served + nbytes, next(self._numbers), flow))
        self.active += 1
        self.nbytes += nbytes
        # it only slows the others: a timer set for one of them is early, and checks again
        if self._armed is None or self._flows[0][2] is flow:
            self._arm()
        return flow

    def cancel(self, flow: Flow) -> None:
        """End a flow, unless it has succeeded."""
        if flow.active and not flow.triggered:
            self._advance()
            flow.active = False
            self.active -= 1
            self._arm()

    def _current(self) -> float:
        while len(self._rates) <= self.active:
            self._rates.append(self.rate(len(self._rates)))
        return self._rates[self.active]

    def _advance(self) -> None:
        now = self.environment.now
        if self.active:
            self._served += (now - self._since) * self._current()
            self.busy += now - self._since
        self._since = now

    def _arm(self) -> None:
        """Set the timer for the end of the first flow at the present rate."""
        while self._flows and not self._flows[0][2].active:
            heappop(self._flows)
        self._timers += 1
        self._armed = None
        if self._flows:
            number = self._timers
            delay = max(0.0, (self._flows[0][0] - self._served) / self._current())
            self._armed = self.environment.now + delay
            timer = self.environment.timeout(delay)
            timer.callbacks.append(lambda _: self._look(number))

    def _look(self, number: int) -> None:
        if number != self._timers:
            return  # another timer has been set since
        self._advance()
        # a rest left by rounding would not advance the clock
        slack = self._current() * max(1e-9, 4e-16 * self.environment.now)
        while self._flows and (self._flows[0][0] <= self._served + slack or not self._flows[0][2].active):
            flow = heappop(self._flows)[2]
            if flow.active:
                self.active -= 1
                flow.succeed()
        self._arm()
