"""The asynchronous rules: each group steps, exchanges beside its steps, fails and is replaced, by itself."""

from __future__ import annotations

import math
from collections import deque
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from modum.averaging.schedule import WINDOW
from modum.simulate.links import Flow, SharedLink
from modum.simulate.pool import StepPool
from modum.simulate.steps import StepTimes, slowdowns, time_to_failure

if TYPE_CHECKING:
    from collections.abc import Generator

    import simpy

    from modum.simulate.record import Record
    from modum.simulate.scenario import Scenario
    from modum.simulate.training import Trainer

    Process = Generator[simpy.Event, object, None]


class _DeathError(Exception):
    """The group dies before what it was about to do is over."""


class AsynchronousJob:
    """All groups of a job with the rule ``elastic`` or ``downpour``.

    Time passes per exchange, not per step: the steps of an interval are one event. With a trainer each step is.
    """

    def __init__(
        self, scenario: Scenario, environment: simpy.Environment, record: Record, trainer: Trainer | None = None
    ) -> None:
        cluster = scenario.cluster
        self.scenario = scenario
        self.environment = environment
        self.record = record
        self.trainer = trainer
        nbytes = scenario.nbytes
        self.incoming = SharedLink(environment, lambda flows: cluster.flow(nbytes, flows))
        # an exchange uses both directions alike, one of which is enough to look at; Downpour adds first, then reads
        downpour = scenario.rule == "downpour"
        self.outgoing = SharedLink(environment, self.incoming.rate) if downpour else self.incoming
        self.tail = cluster.tail(nbytes)
        self.boundary = cluster.boundary(nbytes)
        self.group_average = cluster.group_average(nbytes)
        self.pool = StepPool(environment, scenario.steps * cluster.workers)
        self.version = 0
        """Exchanges that the shared weights have taken."""
        self._alive = 0
        self._factors = slowdowns(scenario).reshape(cluster.groups, cluster.group_size)
        self._seeds = np.random.SeedSequence(scenario.seed)
        first = cluster.groups - scenario.joiners // cluster.group_size
        # nobody starts at the same moment; groups that did would exchange at the same moments ever after
        begin = np.random.default_rng([scenario.seed, 3]).uniform(0, scenario.step_seconds, cluster.groups)
        begin[first:] += scenario.join_seconds
        record.begin.extend(begin.tolist())
        self.places = [environment.process(self._place(place, moment)) for place, moment in enumerate(begin.tolist())]

    @property
    def members(self) -> int:
        return self.scenario.cluster.group_size

    def joined(self, groups: int) -> None:
        """So many groups more (or fewer) take part from now on."""
        self._alive += groups
        self.record.changed(self.environment.now, self._alive * self.members)

    @property
    def groups(self) -> int:
        """Groups alive."""
        return self._alive

    def _place(self, place: int, begin: float) -> Process:
        """One group after the other, each in place of a failed one."""
        yield self.environment.timeout(begin)
        late = begin >= self.scenario.step_seconds
        while self.pool.finished is None:
            group = Group(self, place, self._factors[place], np.random.default_rng(self._seeds.spawn(1)[0]))
            yield from group.run(late=late)
            late = True
            if not group.dead or self.scenario.replace_seconds is None:
                return
            yield self.environment.timeout(self.scenario.replace_seconds)


class Transfer:
    """An exchange under way."""

    def __init__(self, flow: Flow, begun: float) -> None:
        self.crossing = flow
        """What crosses a link now."""
        self.flow = flow
        """The last flow; the correction is on its way when it has succeeded."""
        self.begun = begun
        self.arrival = math.inf
        """When the correction is back; known once the last byte has crossed."""


class Group:
    """One group's life. The times are those of `modum.averaging.Averaging`: see there for when what is applied."""

    def __init__(
        self, job: AsynchronousJob, place: int, factors: np.ndarray[tuple[int], np.dtype[np.float64]],
        generator: np.random.Generator,
    ) -> None:  # fmt: skip
        scenario = job.scenario
        self._job = job
        self._environment = job.environment
        self._scenario = scenario
        self._place = place
        self._times = StepTimes(scenario, factors, generator)
        self._dies = job.environment.now + time_to_failure(scenario, job.members, generator)
        self._transfer: Transfer | None = None
        self._interval = 1 if scenario.interval == "auto" else scenario.interval
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
        job = self._job
        job.joined(1)
        if job.trainer is not None:
            job.trainer.join(self._place)
        try:
            if late:  # the shared weights have to be fetched
                yield from self._cross(job.outgoing.transfer(self._scenario.nbytes))
                if job.trainer is not None:
                    job.trainer.join(self._place)
            while job.pool.finished is None:
                yield from self._train()
                yield from self._finish()
                job.pool.confirm(self._unconfirmed)
                self._unconfirmed = 0
                if job.pool.finished is None:
                    yield from self._wait(job.pool.change())
        except _DeathError:
            yield self._environment.timeout(self._dies - self._environment.now)
            self._die()
        job.joined(-1)

    def _train(self) -> Process:
        job, members = self._job, self._job.members
        while True:
            left = self._interval
            stride = left if job.trainer is None else 1
            while left:
                self._doing = steps = job.pool.take(min(left, stride), members)
                if not steps:
                    return
                yield self._pass(self._times.take(steps) + steps * job.group_average)
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
            if not self._scenario.overlap:
                yield from self._arrival()
                self._collect()

    def _step_until_arrival(self) -> Process:
        """Steps go on, one by one, until one ends after the exchange."""
        job, members = self._job, self._job.members
        start = self._environment.now
        if job.trainer is None:
            yield from self._arrival()
            most = job.pool.take(1 << 40, members)
            if not most:
                return
            steps, seconds = self._times.beyond(self._environment.now - start, most)
            job.pool.give_back((most - steps) * members)
            seconds += steps * job.group_average
            self._doing = steps
            yield self._pass(max(0.0, start + seconds - self._environment.now))
            self._stepped(steps)
            return
        while not self._arrived():
            self._doing = job.pool.take(1, members)
            if not self._doing:
                return
            yield self._pass(self._times.take(1) + job.group_average)
            self._stepped(1)

    def _finish(self) -> Process:
        """Wait for the pending exchange and do a last one."""
        for _ in range(2):
            if self._transfer is not None:
                yield from self._arrival()
                self._collect()
            if not self._unconfirmed:
                return
            yield self._pass(self._job.boundary)
            self._begin()

    def _begin(self) -> None:
        """Take a snapshot and send it."""
        job = self._job
        trainer, place = job.trainer, self._place
        if trainer is not None:
            trainer.snapshot(place)
        flow = job.incoming.transfer(self._scenario.nbytes)
        transfer = self._transfer = Transfer(flow, self._environment.now)
        self._sent = self._unconfirmed
        job.record.intervals.append(self._since_start)
        self._since_start = 0

        def crossed(_: simpy.Event) -> None:
            job.version += 1
            job.record.staleness.append(job.version - self._seen - 1)
            self._seen = job.version
            if trainer is not None:
                trainer.combine(place, job.groups)
            transfer.arrival = self._environment.now + job.tail

        flow.callbacks.append(crossed)
        if self._scenario.rule == "downpour":
            transfer.flow = Flow(job.incoming)
            self._environment.process(self._read(flow, transfer))

    def _read(self, added: Flow, transfer: Transfer) -> Process:
        """Downpour's second half: the shared weights come back only when the sum is acknowledged."""
        yield added
        transfer.arrival = math.inf
        yield self._environment.timeout(self._job.tail)
        transfer.crossing = self._job.outgoing.transfer(self._scenario.nbytes)
        yield transfer.crossing
        if self._job.trainer is not None:
            self._job.trainer.fetch(self._place)
        transfer.arrival = self._environment.now + self._job.tail
        transfer.flow.succeed()

    def _arrived(self) -> bool:
        return self._transfer is not None and self._transfer.arrival <= self._environment.now

    def _arrival(self) -> Process:
        """Wait until the correction is there."""
        transfer = self._transfer
        assert transfer is not None
        if not transfer.flow.triggered:
            yield from self._wait(transfer.flow)
        if transfer.arrival > self._environment.now:
            yield self._pass(transfer.arrival - self._environment.now)
            # the sum may have been rounded down
            transfer.arrival = min(transfer.arrival, self._environment.now)

    def _collect(self) -> None:
        """Apply the correction that has arrived; choose the interval that its time asks for."""
        transfer = self._transfer
        if transfer is None:
            return
        self._transfer = None
        seconds = transfer.arrival - transfer.begun
        self._job.record.exchange_seconds.append(seconds)
        self._job.pool.confirm(self._sent)
        self._unconfirmed -= self._sent
        self._sent = 0
        if self._job.trainer is not None:
            self._job.trainer.apply(self._place)
        if self._scenario.interval == "auto":
            self._exchanges.append(seconds)
            step = self._times.recent + self._job.group_average
            self._interval = max(1, math.ceil(median(self._exchanges) / step - 1e-9))

    def _stepped(self, steps: int) -> None:
        done = steps * self._job.members
        self._doing = 0
        self._unconfirmed += done
        self._since_start += steps
        self._job.record.stepped(self._environment.now, done)
        if self._job.trainer is not None:
            self._job.trainer.step(self._place, steps)

    def _die(self) -> None:
        job = self._job
        self.dead = True
        job.record.failures += 1
        job.record.lost_steps += self._unconfirmed
        if self._transfer is not None:
            self._transfer.crossing.cancel()
        job.pool.give_back(self._unconfirmed + self._doing * job.members)

    def _pass(self, seconds: float) -> simpy.Event:
        if self._environment.now + seconds > self._dies:
            raise _DeathError
        return self._environment.timeout(seconds)

    def _wait(self, event: simpy.Event) -> Process:
        """Wait for what others decide."""
        if self._dies == math.inf:
            yield event
            return
        yield event | self._environment.timeout(max(0.0, self._dies - self._environment.now))
        if not event.triggered:
            raise _DeathError

    def _cross(self, flow: Flow) -> Process:
        yield from self._wait(flow)
        yield self._pass(self._job.tail)
