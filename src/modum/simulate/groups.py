"""Simulate asynchronous rules: each group steps, exchanges beside its steps, fails and is replaced, by itself."""

from __future__ import annotations

import math
from collections import deque
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from modum.averaging.schedule import WINDOW, hiding_steps
from modum.simulate.links import Flow, SharedLink
from modum.simulate.pool import StepPool
from modum.simulate.steps import StepTimes, slowdowns, time_to_failure

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    import simpy
    from numpy.typing import NDArray

    from modum.rules import Leg
    from modum.simulate.record import Record
    from modum.simulate.scenario import Scenario

    Process = Generator[simpy.Event, object, None]
    Factors = NDArray[np.float64]


class DeathError(Exception):
    """The group died before its current operation was over."""


class AsynchronousJob:
    """All groups of a job with an asynchronous rule.

    Args:
        scenario: the scenario to simulate.
        environment: simpy's environment, whose time passes.
        record: where events are recorded.
        make_group: makes a `Group` from the job, its place, its members' slowdowns and its random numbers.
    """

    def __init__(
        self,
        scenario: Scenario,
        environment: simpy.Environment,
        record: Record,
        make_group: Callable[[AsynchronousJob, int, Factors, np.random.Generator], Group],
    ) -> None:
        cluster = scenario.cluster
        self.scenario = scenario
        self.environment = environment
        self.record = record
        self.rule = scenario.update_rule()
        nbytes = scenario.nbytes
        self.legs = self.rule.traffic(nbytes)
        crossings = [max(leg) for leg in self.legs]
        self.incoming = SharedLink(environment, lambda flows: cluster.flow(nbytes, flows))
        # a leg that uses both directions equally is simulated in one of them
        alike = all(leg.out == leg.back for leg in self.legs)
        self.outgoing = self.incoming if alike else SharedLink(environment, self.incoming.rate)
        self.directions = sum(map(sum, self.legs)) / sum(crossings)
        """Bytes that an exchange moves for each byte that crosses the links here."""
        self.tail = cluster.tail(nbytes)
        self.boundary = cluster.boundary(nbytes)
        self.group_average = cluster.group_average(nbytes)
        self.pool = StepPool(environment, scenario.steps * cluster.workers)
        self.version = 0
        """Exchanges that the shared weights have taken."""
        self._make_group = make_group
        self._alive = 0
        self._factors = slowdowns(scenario).reshape(cluster.groups, cluster.group_size)
        self._seeds = np.random.SeedSequence(scenario.seed)
        first = cluster.groups - scenario.joiners // cluster.group_size
        # no two groups start at the same moment, as they would then always exchange at the same moments
        begin = np.random.default_rng([scenario.seed, 3]).uniform(0, scenario.step_seconds, cluster.groups)
        begin[first:] += scenario.join_seconds
        record.begin.extend(begin.tolist())
        self.places = [environment.process(self._place(place, moment)) for place, moment in enumerate(begin.tolist())]

    @property
    def members(self) -> int:
        """Workers of a group."""
        return self.scenario.cluster.group_size

    def joined(self, groups: int) -> None:
        """Record that `groups` more (or fewer) groups take part from now on."""
        self._alive += groups
        self.record.changed(self.environment.now, self._alive * self.members)

    @property
    def groups(self) -> int:
        """Groups alive."""
        return self._alive

    def _place(self, place: int, begin: float) -> Process:
        """Run one group after the other, each in place of a failed one."""
        yield self.environment.timeout(begin)
        late = begin >= self.scenario.step_seconds
        while self.pool.finished is None:
            generator = np.random.default_rng(self._seeds.spawn(1)[0])
            group = self._make_group(self, place, self._factors[place], generator)
            yield from group.run(late=late)
            late = True
            if not group.dead or self.scenario.replace_seconds is None:
                return
            yield self.environment.timeout(self.scenario.replace_seconds)


class Transfer:
    """An exchange that is under way."""

    def __init__(self, flow: Flow, begun: float) -> None:
        self.crossing = flow
        """The flow that crosses a link now."""
        self.flow = flow
        """The last flow; the correction is on its way when it has succeeded."""
        self.begun = begun
        self.arrival = math.inf
        """When the correction arrives; known once the last byte has crossed."""


class Group:
    """One group's life. The times are those of `modum.averaging.Averaging`: see there for when what is applied.

    Time passes per exchange, not per step: the steps of an interval are one event.
    """

    def __init__(self, job: AsynchronousJob, place: int, factors: Factors, generator: np.random.Generator) -> None:
        scenario = job.scenario
        self.job = job
        self.environment = job.environment
        self.scenario = scenario
        self.times = StepTimes(scenario, factors, generator)
        self._dies = job.environment.now + time_to_failure(scenario, job.members, generator)
        self._transfer: Transfer | None = None
        self._interval = 1 if job.rule.interval == "auto" else job.rule.interval
        self._exchanges: deque[float] = deque(maxlen=WINDOW)
        self._unconfirmed = 0
        """Steps since the snapshot before the last acknowledged exchange."""
        self._sent = 0
        """How many of them are in the exchange under way."""
        self._doing = 0
        """Steps (of each member) that it has taken from the pool and not finished."""
        self._since_start = 0
        self._seen = job.version
        self.dead = False

    def run(self, *, late: bool) -> Process:
        """Train until no step of the job is left, or until the group dies."""
        job = self.job
        job.joined(1)
        try:
            if late:  # it must fetch the shared weights
                yield from self._cross(job.outgoing.transfer(self.scenario.nbytes))
            self._begun()
            while job.pool.finished is None:
                yield from self._train()
                yield from self._finish()
                job.pool.confirm(self._unconfirmed)
                self._unconfirmed = 0
                if job.pool.finished is None:
                    yield from self._wait(job.pool.change())
        except DeathError:
            yield self.environment.timeout(self._dies - self.environment.now)
            self._die()
        job.joined(-1)

    def _begun(self) -> None:
        """Start, once the group has the shared weights."""

    def _train(self) -> Process:
        job, members = self.job, self.job.members
        while True:
            left = self._interval
            while left:
                self._doing = steps = job.pool.take(left, members)
                if not steps:
                    return
                yield self._pass(self.times.take(steps) + steps * job.group_average)
                self._stepped(steps)
                left -= steps
                if members == 1 and self._arrived():
                    self._collect()
            if self._transfer is not None and not self._arrived():
                job.record.put_off += 1
                yield from self._step_until_arrival()
                if not self._arrived():
                    return  # no steps are left to do meanwhile
            self._collect()
            yield self._pass(job.boundary)
            self._begin()
            if not job.rule.overlap:
                yield from self._arrival()
                self._collect()

    def _step_until_arrival(self) -> Process:
        """Step, one by one, until a step ends after the exchange."""
        job, members = self.job, self.job.members
        start = self.environment.now
        yield from self._arrival()
        most = job.pool.take(1 << 40, members)
        if not most:
            return
        steps, seconds = self.times.beyond(self.environment.now - start, most)
        job.pool.give_back((most - steps) * members)
        seconds += steps * job.group_average
        self._doing = steps
        yield self._pass(max(0.0, start + seconds - self.environment.now))
        self._stepped(steps)

    def _finish(self) -> Process:
        """Wait for the pending exchange and do a last one."""
        if self._transfer is not None:
            yield from self._arrival()
            self._collect()
        yield self._pass(self.job.boundary)
        self._begin()
        yield from self._arrival()
        self._collect()

    def _begin(self) -> None:
        """Take a snapshot and send it."""
        job = self.job
        first, *others = job.legs
        flow = job.incoming.transfer(max(first))
        transfer = self._transfer = Transfer(flow, self.environment.now)
        self._submitted()

        def crossed(_: simpy.Event) -> None:
            self._combined()
            transfer.arrival = self.environment.now + job.tail

        flow.callbacks.append(crossed)
        if others:
            transfer.flow = Flow(job.incoming)
            self.environment.process(self._go_on(flow, transfer, others))

    def _go_on(self, before: Flow, transfer: Transfer, legs: Sequence[Leg]) -> Process:
        """Go through the other legs: each begins when the previous one is acknowledged."""
        for leg in legs:
            yield before
            transfer.arrival = math.inf
            yield self.environment.timeout(self.job.tail)
            before = transfer.crossing = (self.job.incoming if leg.out else self.job.outgoing).transfer(max(leg))
        yield before
        transfer.arrival = self.environment.now + self.job.tail
        transfer.flow.succeed()

    def _submitted(self) -> None:
        """Record that an exchange begins."""
        self._sent = self._unconfirmed
        self.job.record.intervals.append(self._since_start)
        self._since_start = 0

    def _combined(self) -> None:
        """Record that the shared weights have taken the snapshot."""
        job = self.job
        job.version += 1
        job.record.staleness.append(job.version - self._seen - 1)
        self._seen = job.version

    def _collected(self, seconds: float) -> None:
        """Record that the correction of an exchange, which took `seconds`, has been applied."""
        self.job.record.exchange_seconds.append(seconds)
        self.job.pool.confirm(self._sent)
        self._unconfirmed -= self._sent
        self._sent = 0

    def _arrived(self) -> bool:
        return self._transfer is not None and self._transfer.arrival <= self.environment.now

    def _arrival(self) -> Process:
        """Wait until the correction is there."""
        transfer = self._transfer
        assert transfer is not None
        if not transfer.flow.triggered:
            yield from self._wait(transfer.flow)
        if transfer.arrival > self.environment.now:
            yield self._pass(transfer.arrival - self.environment.now)
            # the sum may have been rounded down
            transfer.arrival = min(transfer.arrival, self.environment.now)

    def _collect(self) -> None:
        """Apply the correction that has arrived, and choose the interval that its time calls for."""
        transfer = self._transfer
        if transfer is None:
            return
        self._transfer = None
        seconds = transfer.arrival - transfer.begun
        self._collected(seconds)
        if self.job.rule.interval == "auto":
            self._exchanges.append(seconds)
            self._interval = hiding_steps(median(self._exchanges), self.times.recent + self.job.group_average)

    def _stepped(self, steps: int) -> None:
        done = steps * self.job.members
        self._doing = 0
        self._unconfirmed += done
        self._since_start += steps
        self.job.record.stepped(self.environment.now, done)

    def _die(self) -> None:
        job = self.job
        self.dead = True
        job.record.failures += 1
        job.record.lost_steps += self._unconfirmed
        self._abandon()
        job.pool.give_back(self._unconfirmed + self._doing * job.members)

    def _abandon(self) -> None:
        """End the exchange under way."""
        if self._transfer is not None:
            self._transfer.crossing.cancel()

    def _pass(self, seconds: float) -> simpy.Event:
        if self.environment.now + seconds > self._dies:
            raise DeathError
        return self.environment.timeout(seconds)

    def _wait(self, event: simpy.Event) -> Process:
        """Wait for what others decide."""
        if self._dies == math.inf:
            yield event
            return
        yield event | self.environment.timeout(max(0.0, self._dies - self.environment.now))
        if not event.triggered:
            raise DeathError

    def _cross(self, flow: Flow) -> Process:
        yield from self._wait(flow)
        yield self._pass(self.job.tail)
