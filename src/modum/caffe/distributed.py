"""Training by many workers through a box: each has the solver's own rule, and the weights move together."""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch

from modum.averaging import LearningRateScale, Worker
from modum.caffe.batches import split_batches
from modum.caffe.filters import filter_net
from modum.caffe.solver import Action, Solver
from modum.cluster import detect
from modum.rules import Elastic, Hybrid
from modum.torch.flat import SharedTensor, flatten
from modum.torch.group import launched_group

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from modum.box import Box
    from modum.caffe.proto import NetParameter, SolverParameter
    from modum.rules.rule import Auto

__all__ = ["SharedSolver", "sharing_rule"]

_log = logging.getLogger(__name__)

JOIN_SECONDS = 300.0
"""How long the first worker may take to write the first weights."""

FINISH_SECONDS = 24 * 3600.0
"""How long workers wait for the others at the end; those do an iteration at most."""

WARM_UP = 20
"""The scale of the learning rate is full after this part of all iterations."""

STOPPED = 1 << 40
"""What a worker that stops adds to the count of iterations, so that none are left for anybody."""


def sharing_rule(
    solver: SolverParameter, moving_rate: float | Auto | None = None, update_interval: int | Auto | None = None
) -> Hybrid:
    """Elastic averaging between groups, with the knobs given here, or else in the solver file, or else automatic.

    Raises:
        ValueError: a value is out of its range.
    """
    if moving_rate is None:
        moving_rate = solver.moving_rate if solver.HasField("moving_rate") else "auto"
    if update_interval is None:
        update_interval = solver.update_interval if solver.HasField("update_interval") else "auto"
    return Hybrid(between=Elastic(moving_rate=moving_rate, interval=update_interval))


class SharedSolver(Solver):
    """One worker's solver in a job of many.

    An iteration is done by a group: each member computes its part of the batch, the gradients are averaged, and every
    member takes the same step. Iterations are counted over all groups: each takes the next one from a counter in the
    box, and its learning rate is that of its number. So ``batch_size``, ``max_iter`` and the learning rate policy mean
    as many samples as for one worker, and `Solver.iter` is the number of the job's iteration that this worker is at.
    Between groups the weights move together by ``rule``. The first worker logs, tests and takes snapshots, with the
    shared weights.

    name
        What the shared model is called in the box.
    learning_rate_scale
        See `LearningRateScale`. Averaging p groups takes a p-th of the steps for the same samples, so that "linear"
        goes as far as one worker does. The factor grows from 1 over the first twentieth of the iterations.
    resume
        A snapshot (``.solverstate``) to go on from: every worker takes its weights and its history.

    Raises:
        MismatchError: the net or the settings differ from the first worker's.
    """

    def __init__(
        self,
        solver: str | Path | SolverParameter,
        box: Box,
        rule: Hybrid,
        *,
        name: str = "caffe",
        learning_rate_scale: Literal["linear", "sqrt"] | float = "linear",
        resume: str | Path | None = None,
        **options: Any,
    ) -> None:
        place = self._place = detect()
        self._first = place.rank == 0
        super().__init__(solver, tests=self._first, **options)
        param = self.param
        if param.random_seed >= 0:
            torch.manual_seed(param.random_seed + place.rank)  # the same dropout everywhere would be less of it
        for layer in self.net.layers:
            if shard := getattr(layer, "shard", None):
                shard(place.rank, place.world_size, max(0, param.random_seed))
        if resume is not None:
            self.restore(resume)
        self._start = self.iter
        self._has_shared_weights = False
        self.group = launched_group(place, self.net.device)
        self._participant = Worker(box, name, self.group)
        tensors = self._shared_tensors()
        vectors = flatten(tensors, self.group)
        learning = self.parameters.flat.numel()
        self.parameters.bind(vectors[0].flat[:learning])
        self.rule.rebind()
        self._scale = LearningRateScale(
            scale=learning_rate_scale, warmup_steps=param.max_iter // WARM_UP // place.groups
        )
        self._participant.join(
            rule,
            vectors,
            self._scale,
            model={"tensors": [[one.name, one.text] for one in tensors], "solver": _settings(param)},
            timeout=JOIN_SECONDS,
            steps=self._start // place.groups,
        )
        self._iterations = box.counter(f"{name}/iterations")
        self._samples = self._batch_size() * param.iter_size

    def solve(self, resume: str | Path | None = None) -> None:
        if (factor := self._scale.factor(self._scale.warmup_steps, self._place.groups)) != 1:
            _log.info("The learning rate grows to %g times the solver's: --learning-rate-scale", factor)
        super().solve(resume)

    def step(self, iterations: int) -> None:
        """Take part until all workers together have done so many iterations from where the job began."""
        limit = self._start + iterations
        self._stopped = False
        self._displayed = (time.perf_counter(), self.iter)
        begun = False
        while (number := self._take(limit)) < limit:
            # what falls due at iterations that others do is done at the next one here
            self._passed, self.iter = number - self.iter + (not begun), number
            snapshot = self.param.snapshot
            if self._first and self._due(snapshot) and self._label(snapshot) > self._start:
                self.snapshot()
            if (
                self._first
                and self._due(self.param.test_interval)
                and (self._label(self.param.test_interval) > 0 or self.param.test_initialization)
            ):
                self.test_all()
            begun = True
            loss = self.forward_backward()
            if self._factor != 1.0:
                self.parameters.gradient.mul_(self._factor)
            self.group.average(self.parameters.gradient)
            self.apply_update(number, self._participant.steps)
            self._participant.stepped()
            total = (limit - self._start) * self._samples * self.group.size
            self._participant.progress.report(samples=self._samples, total=total, loss=float(loss))
            action = self._action()
            if action is Action.SNAPSHOT and self._first:
                self._passed, self.iter = 1, number + 1
                self.snapshot()
                self.iter = number
            elif action is Action.STOP:
                self._stopped = True
            if self._stopped:
                self._iterations.add(STOPPED)
        if not begun and self._first:
            _log.warning("All %d iterations were taken when the first worker came", limit)
        self._stopped = number >= STOPPED
        self._passed, self.iter = max(1, limit - self.iter), limit

    def finish(self) -> None:
        """Share what was learned here and wait for the others; the first worker then does what comes at the end."""
        self._participant.finish(FINISH_SECONDS)
        if self._first:
            if self._stopped:
                self.iter = self._start + self._iterations.value % STOPPED
            self._passed = 1
            if self._due(self.param.snapshot):  # Solver does that one in `step`
                self.snapshot()
            super().finish()

    def snapshot(self) -> tuple[Path, Path]:
        """As `Solver.snapshot`, of the shared weights; the history is this worker's. Of the first worker alone."""
        number, due = self.iter, self.param.snapshot
        if self._passed > 1 and due and self._due(due):
            self.iter = self._label(due)
        try:
            with self._shared_weights():
                return super().snapshot()
        finally:
            self.iter = number

    def test_all(self) -> None:
        """As `Solver.test_all`, with the shared weights."""
        with self._shared_weights():
            super().test_all()

    def close(self) -> None:
        """Leave the job."""
        try:
            self._participant.close()
        finally:
            super().close()

    def _own_part(self, spec: NetParameter) -> NetParameter:
        train = filter_net(spec, spec.state)  # the batches of layers for testing are no concern of a group
        own, self._factor = split_batches(train, self._place.group_rank, self._place.group_size)
        return own

    def _rate(self, iteration: int) -> float:
        return super()._rate(iteration) * self._participant.learning_rate_factor

    def _take(self, limit: int) -> int:
        """The number of the next iteration of this group; `limit` or more if there is none left."""
        number = 0
        if self.group.rank == 0:
            number = self._start + self._iterations.add(1)
            if number >= limit:
                self._iterations.add(-1)  # the counter stays at what was done
        return self.group.broadcast(number)

    @contextmanager
    def _shared_weights(self) -> Iterator[None]:
        """The net has the shared weights inside, and the worker's own again afterwards; may be nested."""
        if self._has_shared_weights:
            yield
            return
        self._has_shared_weights = True
        try:
            with self._participant.shared_weights():
                yield
        finally:
            self._has_shared_weights = False

    def _shared_tensors(self) -> list[SharedTensor]:
        """All parameters: those that learn in the order of `Parameters`, then the others: statistics, for the box."""
        learning = self.parameters.learnables
        others = [one for one in self.net.learnables if one not in learning]
        return [
            SharedTensor(name=f"{one.layer}[{one.index}]", tensor=one.tensor, trainable=trainable)
            for some, trainable in ((learning, True), (others, False))
            for one in some
        ]

    def _batch_size(self) -> int:
        """Samples in a batch: the length of the first top that no layer computes from others."""
        for step in self.net.steps:
            if not step.bottoms and step.tops:
                shape = self.net.blobs[step.spec.top[0]].shape
                return shape[0] if shape else 1
        return 1


def _settings(solver: SolverParameter) -> dict[str, str]:
    """What the solver files of all workers must have in common, by name."""
    return {
        field.name: str(value)
        for field, value in solver.ListFields()
        if not field.name.startswith("modum_") and not field.name.endswith("_param")
    }
