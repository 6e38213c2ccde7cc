"""What the averagers of all front ends have in common: one worker's part in a job, from joining to leaving."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from modum.averaging.averaging import Averaging
from modum.averaging.membership import Membership
from modum.averaging.sharing import join
from modum.cluster import detect
from modum.observe.progress import WorkerProgress
from modum.parameters.vector import shared_weights
from modum.samples.shared import SharedSamples

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType
    from typing import Self

    from modum.averaging.averaging import AveragingStatistics
    from modum.averaging.scaling import LearningRateScale
    from modum.box import Box
    from modum.groups.base import Group
    from modum.parameters.vector import Vector
    from modum.rules.rule import UpdateRule


class Worker:
    """A worker that shares its vectors with all others that use the same name; no framework in sight."""

    def __init__(self, box: Box, name: str, group: Group) -> None:
        environment = detect()
        self.group = group
        self.progress = WorkerProgress(box, environment.rank, environment.world_size)
        self._box = box
        self._name = name
        self._steps = 0
        self._shared_weights = False
        self._reported = (0.0, 0.0)
        self._pools = self._pooled = 0
        self._joined = ExitStack()

    def join(
        self,
        rule: UpdateRule,
        vectors: Sequence[Vector],
        scale: LearningRateScale,
        *,
        model: dict[str, Any],
        timeout: float,
        members: str | None = None,
        steps: int = 0,
    ) -> None:
        """Take part. On return the vectors hold the shared weights: those of the first worker.

        model
            What must be alike in all workers beside the settings, as sections for `consistency.compare`.
        timeout
            Seconds to wait for the worker that makes the shared weights; DeadlineError after that.
        members
            Name under which the groups count each other, if not that of the model.
        steps
            Local steps that were taken before, in a run that this one goes on from: the learning rate warms up once.

        Raises:
            MismatchError: the model or the settings differ from the first worker's.
        """
        settings = {**rule.settings(), "learning_rate_scale": scale.scale, "warmup_steps": scale.warmup_steps}
        self._scale = scale
        self._steps = steps
        self._vectors = vectors
        self._buffers = join(self._box, self._name, vectors, {**model, "settings": settings}, timeout)
        for buffer in self._buffers:
            self._joined.callback(buffer.close)
        self._membership = Membership(self._box, members or self._name, leader=self.group.rank == 0)
        self._joined.callback(self._membership.leave)
        self._averaging = Averaging(rule, vectors, self._buffers, self.group, self._membership)
        self._joined.callback(self._averaging.close)
        self._reported = (0.0, 0.0)
        self._averaging.pull()

    def samples(self, *, size: int, batch_size: int, epochs: int = 1, **options: Any) -> SharedSamples:
        """The job's samples, shared out to its workers; ``options`` go to `SharedSamples`.

        The first calls of all workers share one pool, and so do the second calls: a loop may call it once an epoch.
        """
        number, before = self._pools, self._pooled

        def report(*, samples: int, total: int) -> None:
            self.progress.report(samples=samples, total=before + total)

        shared = SharedSamples(
            self._box,
            size=size,
            batch_size=batch_size,
            epochs=epochs,
            name=f"{self._name}/samples/{number}",
            report=report,
            **{"group": self.group, **options},
        )
        self._pools += 1
        self._pooled += shared.total
        return shared

    def report(self, *, loss: float | None = None, samples: int = 0) -> None:
        """Tell the launcher's display the newest loss, and how many samples were done that `samples` did not give."""
        self.progress.report(loss=loss, samples=samples)

    @contextmanager
    def shared_weights(self) -> Iterator[None]:
        """The model has the shared weights inside, and the worker's own again afterwards.

        For evaluation and saving, by any one worker. No step is allowed inside. Takes memory for one more copy of the
        model meanwhile.
        """
        if self._shared_weights:
            raise RuntimeError("shared_weights() is entered already")
        self._shared_weights = True
        try:
            with shared_weights(self._vectors, self._buffers):
                yield
        finally:
            self._shared_weights = False

    def pull(self) -> None:
        """Take the shared weights for good. In a group, all members call it."""
        self._averaging.pull()

    def finish(self, timeout: float | None = 600.0) -> None:
        """Do a last exchange, so that nothing learned here is lost, and wait until all others have done theirs.

        Afterwards the shared weights are final, unless ``timeout`` is None: then this worker does not wait. In a group,
        all members call it; no step may follow.

        Raises:
            DeadlineError: other groups were still training after ``timeout`` seconds.
        """
        self._averaging.finish()
        self._report_exchanges()
        self.progress.flush()
        self._unhook()
        self._membership.leave()
        if timeout is not None:
            self._membership.wait_for_others(timeout)

    def statistics(self) -> AveragingStatistics:
        """Steps, exchanges and their times so far, and the interval and moving rate in force."""
        return self._averaging.statistics()

    def leave(self) -> None:
        """Take part no longer: the pending exchange ends, and the model stays as it is."""
        self._joined.close()

    def close(self) -> None:
        """Leave the job: the pending exchange ends, the model stays, and the optimizer is itself again."""
        with ExitStack() as stack:  # in reverse order, and all of it whatever fails
            stack.callback(self.group.close)
            stack.callback(self.progress.close)
            stack.callback(self.leave)
            stack.callback(self._unhook)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def check_own_weights(self) -> None:
        """RuntimeError inside `shared_weights`, where no step is allowed."""
        if self._shared_weights:
            raise RuntimeError("a step inside shared_weights(): leave the context first")

    @property
    def steps(self) -> int:
        """Local steps taken, those before this run too."""
        return self._steps

    @property
    def exchanging(self) -> bool:
        """Whether an exchange runs in the background now."""
        return self._averaging.exchanging

    @property
    def learning_rate_factor(self) -> float:
        """By what the learning rate of the next step is multiplied."""
        return self._scale.factor(self._steps, self._averaging.groups)

    def stepped(self, steps: int = 1) -> None:
        """So many local steps have ended."""
        self._steps += steps
        self._averaging.step(steps)
        self._report_exchanges(steps)

    def _report_exchanges(self, steps: int = 0) -> None:
        now = self._averaging.statistics()
        exchange, hidden = self._reported
        self.progress.report(
            steps=steps,
            exchange_seconds=now.exchange_seconds - exchange,
            hidden_seconds=now.hidden_seconds - hidden,
        )
        self._reported = (now.exchange_seconds, now.hidden_seconds)

    def _unhook(self) -> None:
        """Give back what the front end took of the framework."""
