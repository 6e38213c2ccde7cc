"""Run an update rule between a worker's steps, whatever the framework."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from modum.averaging.guard import Guard
from modum.averaging.schedule import Schedule
from modum.errors import BufferNotFoundError, NotFiniteError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from modum.averaging.sharing import SharedVectors
    from modum.box import Buffer
    from modum.groups import Group
    from modum.parameters import Vector
    from modum.rules import UpdateRule

__all__ = ["Averaging", "AveragingStatistics", "Groups", "Transfer", "Transferred"]

_log = logging.getLogger("modum")

PARTED = 0.5
"""Part of their own size by which weights are away from the shared ones above which workers have parted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AveragingStatistics:
    """What a worker has done so far. Times are in seconds."""

    steps: int
    exchanges: int
    put_off: int
    """Exchanges that were due while the one before still ran; they ran later, and compute did not wait."""
    exchange_seconds: float
    """Time of the exchanges in the background."""
    hidden_seconds: float
    """How much of that was hidden under compute."""
    interval: int
    """The interval in force."""
    moving_rate: float
    """Moving rate of the last exchange; 0 before the first."""
    groups: int
    """Groups alive at the last exchange."""
    apart: float = 0.0
    """How far this worker was from the shared weights at its last exchange: `|W - G| / |W|`, seen in a sample."""
    rule: str = ""
    """The update rule in force, with its settings."""
    learning_rate_factor: float = 1.0
    """The factor on the learning rate of the next step."""
    restored: int = 0
    """How often this worker's weights were not finite, and it took the shared ones."""


class Groups(Protocol):
    """The groups that take part: `Membership` in a job, virtual groups in a simulation."""

    @property
    def groups(self) -> int:
        """Groups alive when last counted, this one included."""

    def count(self) -> None:
        """Count the groups; called after every transfer, on its thread."""


class Transferred(NamedTuple):
    """What a transfer that is over has left."""

    seconds: float
    """That it took."""
    rates: Sequence[float]
    """Of its exchange, one for each vector."""


class Transfer(Protocol):
    """Carries out one transfer at a time: `BackgroundTransfer` in a job, virtual time in a simulation."""

    @property
    def pending(self) -> bool:
        """Whether a transfer was submitted and not collected."""

    @property
    def ready(self) -> bool:
        """Whether `collect` may be called."""

    count: int
    """Transfers collected."""
    seconds: float
    """Seconds that they took."""
    waited: float
    """How much of that time was spent waiting for them."""

    def submit(self, transfer: Callable[[], Sequence[float]]) -> None:
        """Start a transfer, which returns the rates of its exchange. The one before must have been collected."""

    def collect(self) -> Transferred | None:
        """Wait for the pending transfer and return what it has left; None where none is pending.

        Returns:
            Seconds and rates, or None.

        Raises:
            Exception: what the transfer raised.
        """

    def close(self) -> None:
        """Finish the pending transfer, ignoring its exception."""


class _Wish(NamedTuple):
    """What a member of the group brings to a boundary; the maximum over the members counts."""

    late: float
    """1 if its exchange still runs."""
    interval: float
    """Steps to the next exchange that it wants."""
    groups: float
    """Groups that it has counted."""
    leaving: float
    """1 if it was asked to leave."""
    checkpoint: float
    """Number of the newest checkpoint that it was asked for."""


class Averaging:
    """Runs a rule for one worker: call `step` after every local step.

    With `rule.overlap` a group of one subtracts the correction at the first step boundary after it arrived; a larger
    group at the next boundary at which an exchange is due, so that all members do it at the same step. All members of a
    group call every method but `statistics` at the same steps.

    Args:
        rule: the rule to run.
        vectors: the worker's weights, one vector for each dtype.
        buffers: the shared weights, in the same order.
        group: the workers that step together with this one.
        membership: the groups that take part.
        transfer: carries out the transfers; `close` closes it.
        clock: returns seconds, monotonic.
        shared: what makes the buffers anew, and finds those that another worker has made; None: nobody does.
        guard: keeps weights that are not finite out of the shared ones.
        stopping: whether this worker was asked to leave.
        asked: number of the newest checkpoint that this worker was asked for.

    Attributes:
        vectors: as given.
        buffers: as given, or those that have taken their place.
        groups: groups alive, as all members of this group see it.
    """

    def __init__(
        self,
        rule: UpdateRule,
        vectors: Sequence[Vector],
        buffers: Sequence[Buffer],
        group: Group[Any],
        membership: Groups,
        transfer: Transfer,
        clock: Callable[[], float] = time.monotonic,
        shared: SharedVectors | None = None,
        guard: Guard | None = None,
        stopping: Callable[[], bool] = lambda: False,
        asked: Callable[[], int] = lambda: 0,
    ) -> None:
        self.vectors = vectors
        self._rule = rule
        self._use(buffers)
        self._rates: Sequence[float] = [0.0] * len(self._parts)
        self._group = group
        self._membership = membership
        self._schedule = Schedule(rule.interval, clock)
        self._transfer = transfer
        self._shared = shared
        self._guard = guard or Guard()
        self._stopping = stopping
        self._asked = asked
        self._agreed_checkpoint = 0
        self._leaving = False
        self._put_off = 0
        self._late = self._parted = False
        self._snapshot = 0
        self.groups = membership.groups

    def step(self, steps: int = 1) -> None:
        """Count local steps, apply a correction that has arrived, and start an exchange when one is due.

        Args:
            steps: local steps since the last call.

        Raises:
            ModumError: the background transfer failed.
        """
        self._schedule.step(steps)
        if self._schedule.due:
            self._boundary()
        elif self._group.size == 1 and self._transfer.ready:
            self._collected()
        self._schedule.resume()

    def pull(self) -> None:
        """Take the shared weights, dropping what this worker has learned since its last exchange."""
        self._collected()
        self._take()

    def push(self) -> None:
        """Make this group's weights the shared ones; an exchange under way counts no more, neither here nor there."""
        assert self._shared is not None, "nobody can replace these buffers"
        self._check_leader()
        self._transfer.collect()
        if self._group.rank == 0:
            self._use(self._shared.replace())
        for part in self._parts:
            part.vector.align()  # after the leader has written
        if self._group.rank != 0:
            self._use(self._shared.reopen())
        self._snapshot = self._schedule.steps
        for part in self._parts:
            part.pulled()

    def state(self) -> dict[str, Any]:
        """Apply the exchange under way, waiting for it, and return what this worker's next exchanges depend on."""
        self._collected()
        return {
            "schedule": self._schedule.state(),
            "since": self._schedule.steps - self._snapshot,
            "groups": self.groups,
            "rates": list(map(float, self._rates)),
            "parts": [part.state() for part in self._parts],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` has returned; an exchange under way here is dropped."""
        self._transfer.collect()
        self._schedule.load(state["schedule"])
        self._snapshot = self._schedule.steps - int(state["since"])
        self.groups = int(state["groups"])
        self._rates = list(state["rates"])
        for part, each in zip(self._parts, state["parts"], strict=True):
            part.load(each)

    def _check_leader(self) -> None:
        """Raise NotFiniteError in all members of the group, if its leader's weights cannot be the shared ones."""
        problem: NotFiniteError | None = None
        if self._group.rank == 0:
            try:
                for vector in self.vectors:
                    vector.check_finite()
            except NotFiniteError as error:
                problem = error
        if self._anybody(problem is not None):
            raise problem or NotFiniteError("the leader of the group has weights that are not finite: see its error")

    def finish(self) -> None:
        """Wait for the pending exchange and do a last one, so that nothing this worker learned is lost."""
        self._start()
        self._collected()

    def close(self) -> None:
        """End the transfers, once the pending one is over."""
        self._transfer.close()

    @property
    def leaving(self) -> bool:
        """Whether a member of this group was asked to leave; all find it at the same exchange."""
        return self._leaving or (self._group.size == 1 and self._stopping())

    @property
    def checkpoint(self) -> int:
        """Number of the newest checkpoint that was asked for; the members of a group find it at the same exchange."""
        return self._asked() if self._group.size == 1 else self._agreed_checkpoint

    @property
    def exchanging(self) -> bool:
        """Whether a transfer runs in the background now."""
        return self._transfer.pending and not self._transfer.ready

    def statistics(self) -> AveragingStatistics:
        """Return what this worker has done so far."""
        transfer = self._transfer
        return AveragingStatistics(
            steps=self._schedule.steps,
            exchanges=transfer.count,
            put_off=self._put_off,
            exchange_seconds=transfer.seconds,
            hidden_seconds=max(0.0, transfer.seconds - transfer.waited),
            interval=self._schedule.interval,
            moving_rate=self._rates[0],
            groups=self.groups,
            apart=max(part.apart for part in self._parts),
            rule=self._rule.text,
            restored=self._guard.count,
        )

    def _boundary(self) -> None:
        """Start the exchange that is due, unless a member's previous one still runs."""
        wish = _Wish(self.exchanging, self._schedule.wanted, self._membership.groups, self._stopping(), self._asked())
        agreed = _Wish(*self._group.largest(wish))
        self._leaving = bool(agreed.leaving)
        self._agreed_checkpoint = int(agreed.checkpoint)
        if agreed.late:
            self._put_off += not self._late
            self._late = True
            return
        self._late = False
        self.groups = int(agreed.groups)
        self._start()
        self._schedule.start(int(agreed.interval))
        if not self._rule.overlap:
            self._collected()

    def _start(self) -> None:
        """Apply the pending exchange, waiting for it if need be, and start the next one."""
        arrived = self._awaited()
        for part, rate in zip(self._parts, self._rates, strict=True):
            part.vector.check()
            if arrived:
                part.vector.subtract_and_snapshot(rate)
            else:
                part.vector.snapshot()
        if self._group.size > 1 and self._anybody(not self._guard.passes(self.vectors)):
            # no member has sent its slice of this step, so the others' are not in the shared weights either
            self._guard.react(self._schedule.steps, self._transfer.count, self._take)
            return
        groups, steps = self.groups, self._schedule.steps - self._snapshot
        self._snapshot = self._schedule.steps
        self._transfer.submit(lambda: self._transferred(groups, steps))

    def _transferred(self, groups: int, steps: int) -> Sequence[float]:
        """Exchange; runs on the thread of the transfers.

        Returns no rates if another worker has pushed its weights, or this one's are not finite.
        """
        if self._group.size == 1 and not self._guard.passes(self.vectors):
            return ()
        try:
            return [part.transfer(groups, steps) for part in self._parts]
        except BufferNotFoundError:
            if self._shared is None:
                raise
            return ()

    def _collected(self) -> None:
        """Apply the pending exchange, waiting for it if need be."""
        if self._awaited():
            for part, rate in zip(self._parts, self._rates, strict=True):
                part.vector.subtract(rate)

    def _awaited(self) -> bool:
        """Wait for the pending exchange; return whether there was one, and its corrections are to be applied."""
        transferred = self._transfer.collect()
        if transferred is None:
            return False
        seconds, rates = transferred
        found = self._guard.found
        replaced, spoiled = self._group.largest((not rates and not found, found))
        if replaced:
            self._renew()
            self._take()
            return False
        if spoiled:
            self._guard.react(self._schedule.steps, self._transfer.count, self._take)
            return False
        self._rates = rates
        self._schedule.exchanged(seconds)
        if not self._parted and (apart := max(part.apart for part in self._parts)) > PARTED:
            self._parted = True
            _log.warning(
                "this worker's weights are %.0f %% of their size away from the shared ones: workers have parted, and"
                " the shared weights may be worse than each worker's own. HINT: take a lower learning rate, or fewer"
                " steps between exchanges (now %d)",
                100 * apart,
                self._schedule.interval,
            )
        return True

    def _take(self) -> None:
        """Take the shared weights that are there now."""
        while self._anybody(self._group.rank == 0 and not self._read()):
            self._renew()
        self._snapshot = self._schedule.steps
        for part in self._parts:
            part.vector.align()
            part.pulled()

    def _read(self) -> bool:
        """Read the shared weights; return whether they are there still."""
        try:
            for part in self._parts:
                part.vector.read(part.buffer)
        except BufferNotFoundError:
            if self._shared is None:
                raise
            return False
        return True

    def _renew(self) -> None:
        """Use the buffers that another worker has made."""
        assert self._shared is not None
        _log.info("another worker has pushed its weights: this one goes on from them")
        self._use(self._shared.reopen())

    def _use(self, buffers: Sequence[Buffer]) -> None:
        self.buffers = buffers
        self._parts = [self._rule.part(vector, buffer) for vector, buffer in zip(self.vectors, buffers, strict=True)]

    def _anybody(self, flag: bool) -> bool:
        """Whether any member of the group says so (collective)."""
        return flag if self._group.size == 1 else bool(self._group.largest((float(flag),))[0])
