"""One worker's part in an update rule: what happens between its steps, whatever the framework."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modum.averaging.background import BackgroundTransfer
from modum.averaging.membership import HEARTBEAT_SECONDS
from modum.averaging.schedule import Schedule

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from modum.averaging.membership import Membership
    from modum.box import Buffer
    from modum.groups.base import Group
    from modum.parameters.vector import Vector
    from modum.rules.rule import UpdateRule


@dataclass(frozen=True, kw_only=True, slots=True)
class AveragingStatistics:
    """What a worker has done so far. Times are in seconds."""

    steps: int
    exchanges: int
    put_off: int
    """Exchanges that were due while the one before still ran; they came later, and compute did not wait."""
    exchange_seconds: float
    """What the exchanges took in the background."""
    hidden_seconds: float
    """How much of that lay under compute."""
    interval: int
    moving_rate: float
    groups: int
    """Groups alive at the last exchange."""


class Averaging:
    """Drives a rule for one worker: call `step` after every local step.

    ``vectors`` and ``buffers`` belong together, one pair for each dtype. With ``rule.overlap`` a group of one
    subtracts the correction at the first step boundary after it arrived; a larger group at the next boundary
    at which an exchange is due, so that all members do it at the same step. All members of a group call every
    method but `statistics` at the same steps.
    """

    def __init__(
        self,
        rule: UpdateRule,
        vectors: Sequence[Vector],
        buffers: Sequence[Buffer],
        group: Group[Any],
        membership: Membership,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rule = rule
        self.vectors = vectors
        self.buffers = buffers
        self._parts = [rule.part(vector, buffer) for vector, buffer in zip(vectors, buffers, strict=True)]
        self._group = group
        self._membership = membership
        self._schedule = Schedule(rule.interval, clock)
        self._exchange = BackgroundTransfer(membership.count, heartbeat_seconds=HEARTBEAT_SECONDS, clock=clock)
        self._rate = 0.0
        self._put_off = 0
        self._late = False
        self.groups = membership.groups
        """Groups alive, as all members of this group see it."""

    def step(self, steps: int = 1) -> None:
        """A local step has ended, or several have: apply what arrived, and start an exchange when one is due.

        Raises what the background transfer raised.
        """
        self._schedule.step(steps)
        if self._schedule.due:
            self._boundary()
        elif self._group.size == 1 and self._exchange.ready:
            self._collect()
        self._schedule.resume()

    def pull(self) -> None:
        """Take the shared weights; what this worker learned since its last exchange is dropped."""
        self._collect()
        for part in self._parts:
            if self._group.rank == 0:
                part.vector.read(part.buffer)
            part.vector.align()
            part.pulled()

    def finish(self) -> None:
        """Wait for the pending exchange and do a last one: nothing that was learned here is lost."""
        self._start()
        self._collect()

    def close(self) -> None:
        """End the background thread, once its transfer is over."""
        self._exchange.close()

    @property
    def exchanging(self) -> bool:
        """Whether a transfer runs in the background now."""
        return self._exchange.pending and not self._exchange.ready

    def statistics(self) -> AveragingStatistics:
        exchange = self._exchange
        return AveragingStatistics(
            steps=self._schedule.steps,
            exchanges=exchange.count,
            put_off=self._put_off,
            exchange_seconds=exchange.seconds,
            hidden_seconds=max(0.0, exchange.seconds - exchange.waited),
            interval=self._schedule.interval,
            moving_rate=self._rule.rate(self.groups),
            groups=self.groups,
        )

    def _boundary(self) -> None:
        """An exchange is due: start it, unless that of a member still runs."""
        late, interval, groups = self._group.largest((self.exchanging, self._schedule.wanted, self._membership.groups))
        if late:
            self._put_off += not self._late
            self._late = True
            return
        self._late = False
        self.groups = int(groups)
        self._start()
        self._schedule.start(int(interval))
        if not self._rule.overlap:
            self._collect()

    def _start(self) -> None:
        """Apply the pending exchange, waiting for it if need be, and start the next one."""
        arrived = self._await()
        for part in self._parts:
            part.vector.check()
            if arrived:
                part.vector.subtract_and_snapshot(self._rate)
            else:
                part.vector.snapshot()
        rate = self._rule.rate(self.groups)

        def transfer() -> None:
            for part in self._parts:
                part.transfer(rate)

        self._rate = rate
        self._exchange.submit(transfer)

    def _collect(self) -> None:
        """Apply the pending exchange, waiting for it if need be."""
        if self._await():
            for part in self._parts:
                part.vector.subtract(self._rate)

    def _await(self) -> bool:
        """Wait for the pending exchange; whether there was one."""
        seconds = self._exchange.collect()
        if seconds is None:
            return False
        self._schedule.exchanged(seconds)
        return True
