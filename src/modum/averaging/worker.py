"""A worker's part in sharing a model, whatever the framework: from joining to leaving."""

from __future__ import annotations

import logging
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from modum.averaging.arrivals import Arrivals
from modum.averaging.averaging import Averaging
from modum.averaging.background import BackgroundTransfer
from modum.averaging.guard import Guard
from modum.averaging.membership import COUNT_SECONDS, Membership
from modum.averaging.sharing import SharedVectors
from modum.errors import DeadlineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from modum.averaging.averaging import AveragingStatistics
    from modum.averaging.guard import Reaction
    from modum.averaging.scaling import LearningRateScale
    from modum.groups import Group
    from modum.job import Job
    from modum.parameters import Vector
    from modum.rules import Auto, UpdateRule


_log = logging.getLogger("modum")


class Worker:
    """A worker that shares its vectors with all others that use the same name; `Worker.join` makes and starts it.

    All members of a group call every method but `statistics` and `shared_weights`, at the same steps.
    """

    def __init__(
        self,
        job: Job,
        averaging: Averaging,
        shared: SharedVectors,
        membership: Membership,
        scale: LearningRateScale,
        steps: int,
        stack: ExitStack,
        of: Mapping[str, Any],
    ) -> None:
        self._job = job
        self._of = dict(of)
        self._averaging = averaging
        self._shared = shared
        self._membership = membership
        self._scale = scale
        self._stack = stack
        self._lent = False
        self._reported = (0.0, 0.0)
        self.steps = steps
        """Local steps taken, including those before this run."""

    @classmethod
    def join(
        cls,
        job: Job,
        rule: UpdateRule,
        vectors: Sequence[Vector],
        group: Group[Any],
        *,
        name: str,
        scale: LearningRateScale,
        model: dict[str, Any],
        timeout: float | None = None,
        members: str | None = None,
        steps: int = 0,
        creates: bool = True,
        ranks: Sequence[int] | None = None,
        on_nonfinite: Reaction = "restore",
        restored: Callable[[], None] | None = None,
    ) -> Worker:
        """Join. On return the vectors hold the shared weights: at first those of the first worker.

        Args:
            job: whose box keeps the shared weights.
            rule: how local and shared weights move together.
            vectors: the worker's weights, one vector for each dtype.
            group: the workers that step together with this one.
            name: name of the shared model in the box; all workers that use it train one model.
            scale: scale of the learning rate.
            model: what must be equal in all workers besides the settings, as sections for `consistency.compare`.
            timeout: seconds to wait for the worker that makes the shared weights; None: as `Job.timeouts` say.
            members: name under which the groups count each other, if not the model's.
            steps: local steps taken in an earlier run that this one continues, so that the learning rate warms up once.
            creates: whether this worker may be the first one; else it waits `timeout` seconds for another one to be.
            ranks: the leaders of all groups that are to train this model, for which `finish` waits; None: all of the
                job.
            on_nonfinite: what to do where weights are not finite: see `Guard`.
            restored: called when the shared weights were taken for that reason.

        Returns:
            The running worker; `close` leaves.

        Raises:
            MismatchError: the model or the settings differ from the first worker's.
            ValueError: `on_nonfinite` is none of what there is.
            NotFiniteError: this worker is the first one, and its weights have NaN or infinity.
            DeadlineError: the first worker took longer than `timeout`.
            ModumError: the box failed. In each case this worker has left nothing but the shared weights.
        """
        guard = Guard(on_nonfinite, restored)
        settings = {**rule.settings(), "learning_rate_scale": scale.scale, "warmup_steps": scale.warmup_steps}
        timeout = job.timeouts.create if timeout is None else timeout
        with ExitStack() as stack:
            shared = SharedVectors(job.box, name, vectors, {**model, "settings": settings}, timeout, creates=creates)
            stack.callback(shared.close)
            leader, leaders = job.rank - group.rank, ranks or range(0, job.launched, group.size)
            arrivals = Arrivals(job, members or name, leader, leaders)
            membership = Membership(job.box, members or name, leader=group.rank == 0, arrivals=arrivals)
            stack.callback(membership.leave)
            transfer = BackgroundTransfer(membership.count, idle_seconds=COUNT_SECONDS)
            averaging = Averaging(
                rule,
                vectors,
                shared.buffers,
                group,
                membership,
                transfer,
                shared=shared,
                guard=guard,
                stopping=lambda: job.stopping,
                asked=lambda: job.checkpoints.asked,
            )
            stack.callback(averaging.close)
            averaging.pull()
            _log.info("%s", _shared_line(job, rule, scale, vectors, name))
            of = {"rule": rule.settings()["rule"], "members": group.size, "member": group.rank}
            return cls(job, averaging, shared, membership, scale, steps, stack.pop_all(), of)
        raise AssertionError("unreachable")

    def stepped(self, steps: int = 1) -> None:
        """Count local steps, apply a correction that has arrived, and start an exchange when one is due.

        Args:
            steps: local steps since the last call.

        Raises:
            ModumError: the background transfer failed.
        """
        self.steps += steps
        self._averaging.step(steps)
        self._report(steps)

    def pull(self) -> None:
        """Take the shared weights for good, dropping what this worker has learned since its last exchange."""
        self._averaging.pull()

    def push(self) -> None:
        """Make this group's weights the shared ones, in place of what all workers have learned so far.

        Other groups take them when their next exchange ends, or when they pull or finish, and drop what they have
        learned since. Of what they had under way nothing is added to them. If several push, the last one counts.

        Raises:
            NotFiniteError: they have NaN or infinity; the shared ones stay as they are.
            DeadlineError: others were making the shared weights for longer than the `timeout` of `join`.
        """
        self._averaging.push()

    def state(self) -> dict[str, Any]:
        """Apply the exchange under way, and return all that this worker goes on from but its weights.

        Returns:
            Numbers, texts and NumPy arrays, in dicts and lists: steps, schedule, and what the rule remembers.

        Raises:
            RuntimeError: inside `shared_weights`.
            ModumError: the background transfer failed.
        """
        self.check_own_weights()
        return {**self._of, "steps": self.steps, **self._averaging.state()}

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Check that a state is of a worker like this one.

        Args:
            state: what `state` has returned.

        Raises:
            ValueError: it is of another rule, or of another place in a group; the message has both.
        """
        if theirs := {name: state[name] for name, value in self._of.items() if state[name] != value}:
            ours = {name: self._of[name] for name in theirs}
            raise ValueError(
                f"the state is of a worker with {_in_words(theirs)}, and this one has {_in_words(ours)}: make the"
                " averager with the rule and the groups that it had"
            )

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` has returned, and drop an exchange that is under way; the weights are not in it.

        Args:
            state: of a worker with the same rule and the same place in its group.

        Raises:
            ValueError: as `check_state` does; nothing was changed.
        """
        self.check_state(state)
        self._averaging.load(state)
        self.steps = int(state["steps"])

    @property
    def checkpoint(self) -> int:
        """Number of the newest checkpoint that the launcher has asked for, as all members of the group know it."""
        return self._averaging.checkpoint

    def finish(self, timeout: float | Auto | None = "auto", done: Callable[[], None] = lambda: None) -> None:
        """Do a last exchange, so that nothing this worker learned is lost, and wait until all others have done theirs.

        That includes workers of the job that have not joined yet, unless they leave the job or train another model. A
        worker that was asked to leave (`Job.stopping`) waits for those alone that leave with it, and for half of its
        grace at most.

        Args:
            timeout: seconds to wait for the others, after which the shared weights are final; "auto": as `Job.timeouts`
                say; None: do not wait.
            done: called after the last exchange.

        Raises:
            DeadlineError: other groups were still training after `timeout` seconds, or had not joined. This worker's
                part is done.
        """
        self._averaging.finish()
        done()
        self._report()
        self._job.flush()
        self._membership.leave()
        if self._job.stopping or self.leaving:
            _log.warning("rank %d leaves, as it or its group was asked to: its last exchange is done", self._job.rank)
            if (patience := self._job.patience) is not None:
                with suppress(DeadlineError):
                    self._membership.wait_for_others(patience)
        elif timeout is not None:
            self._membership.wait_for_others(self._job.timeouts.others if timeout == "auto" else timeout)

    @contextmanager
    def shared_weights(self) -> Iterator[None]:
        """Give the model the shared weights inside the `with` block, and its own again afterwards.

        For evaluation and saving, on any one worker. No step is allowed inside. It needs memory for another copy of the
        model meanwhile.

        Raises:
            RuntimeError: it is already entered.
        """
        if self._lent:
            raise RuntimeError("shared_weights() is entered already")
        self._lent = True
        vectors = self._averaging.vectors
        try:
            for vector in vectors:
                vector.save()
            try:
                self._shared.read()
                yield
            finally:
                for vector in vectors:
                    vector.restore()
        finally:
            self._lent = False

    @property
    def lent(self) -> bool:
        """Whether the model has the shared weights now, inside `shared_weights`."""
        return self._lent

    def check_own_weights(self) -> None:
        """Raise RuntimeError inside `shared_weights`, where no step is allowed."""
        if self._lent:
            raise RuntimeError("a step inside shared_weights(): leave the context first")

    def statistics(self) -> AveragingStatistics:
        """Return steps, exchanges and their times so far, and the rule, interval, moving rate and factor in force."""
        return replace(self._averaging.statistics(), learning_rate_factor=self.learning_rate_factor)

    @property
    def leaving(self) -> bool:
        """Whether this group is to leave, as one of its members was asked to: see `Averaging.leaving`."""
        return self._averaging.leaving

    @property
    def exchanging(self) -> bool:
        """Whether an exchange runs in the background now."""
        return self._averaging.exchanging

    @property
    def learning_rate_factor(self) -> float:
        """The factor on the learning rate of the next step."""
        return self._scale.factor(self.steps, self._averaging.groups)

    def close(self) -> None:
        """Stop taking part: finish the pending exchange and keep the model as it is. Closing twice does nothing."""
        self._stack.close()

    def _report(self, steps: int = 0) -> None:
        now = self._averaging.statistics()
        exchange, hidden = self._reported
        self._job.report(
            steps=steps,
            exchange_seconds=now.exchange_seconds - exchange,
            hidden_seconds=now.hidden_seconds - hidden,
        )
        self._reported = (now.exchange_seconds, now.hidden_seconds)


def _in_words(of: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value!r}" for name, value in of.items())


def _shared_line(job: Job, rule: UpdateRule, scale: LearningRateScale, vectors: Sequence[Vector], name: str) -> str:
    """Say what is shared, with whom, how, and through what."""
    what = ", ".join(
        f"{sum(spec.size for spec in specs):,} numbers of {len(specs)} tensors ({specs[0].dtype})"
        for specs in (vector.layout.specs for vector in vectors)
    )
    servers = ", ".join(f"{server} via {way}" for server, way in zip(job.box.servers, job.box.transports, strict=True))
    return (
        f"sharing {name!r}: {what}; worker {job.rank} of {job.world_size}, {job.groups} groups of {job.group.size}; "
        f"rule {rule.text}, learning rate {scale.text}; memory servers {servers}"
    )
