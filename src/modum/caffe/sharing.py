"""A solver in a job of many workers: each has the solver's own optimizer, and the weights move together."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch

from modum.averaging import OptimizerKind, Worker, choose
from modum.averaging.boundary import Boundary
from modum.caffe.batches import split_batches
from modum.caffe.checkpoint import Checkpointed
from modum.caffe.filters import filter_net
from modum.torch.flat import SharedTensor, flatten
from modum.torch.group import group_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from modum.averaging import Reaction, Scale
    from modum.caffe.proto import NetParameter, SolverParameter
    from modum.caffe.solver import Solver
    from modum.job import Job
    from modum.rules import Auto, UpdateRule

__all__ = ["Sharing", "sharing_rule"]

_log = logging.getLogger(__name__)

FINISH_SECONDS = 24 * 3600.0
"""How long workers wait at the end for the others, which do at most one more iteration."""

WARM_UP = 20
"""The learning rate reaches its full scale after 1 / WARM_UP of all iterations."""

STOPPED = 1 << 40
"""What a stopping worker adds to the count of iterations, so that none are left for any worker."""


def sharing_rule(
    solver: SolverParameter, moving_rate: float | Auto | None = None, interval: int | Auto | None = None
) -> UpdateRule:
    """Return the rule that goes with a solver's type, between groups: see `modum.averaging.choose`.

    Args:
        solver: the solver's file, which may set both.
        moving_rate: overrides the file's; None: the file's, or else "auto".
        interval: overrides the file's `update_interval`; None: the file's, or else "auto".

    Returns:
        The rule.

    Raises:
        ValueError: a value is out of its range.
    """
    if moving_rate is None:
        moving_rate = solver.moving_rate if solver.HasField("moving_rate") else "auto"
    if interval is None:
        interval = solver.update_interval if solver.HasField("update_interval") else "auto"
    return choose(_optimizer(solver), f"auto:moving_rate={moving_rate},interval={interval}").rule


def _optimizer(solver: SolverParameter) -> OptimizerKind:
    return OptimizerKind.named(solver.type, solver.momentum)


class Sharing:
    """A worker's solver in a job of many.

    A group does an iteration together: each member computes its part of the batch, gradients are averaged, and every
    member takes the same step. Iterations are counted over all groups: each takes the next number from a counter in the
    box, and uses the learning rate for that number. So `batch_size`, `max_iter` and the learning rate policy mean as
    many samples as for one worker, and `Solver.iter` is the number of the job's iteration that this worker is at.
    Between groups the weights move together by `rule`. The first worker logs, tests and takes snapshots, with the
    shared weights.

    Args:
        job: from `modum.connect`.
        rule: how the weights move together; None: the one from `sharing_rule`.
        param: the solver's file.
        name: name of the shared model in the box.
        learning_rate_scale: see `LearningRateScale`; "auto" goes with the solver's type: the number of groups for Adam
            and its like, else 1. The factor grows from 1 over the first twentieth of the iterations.
        on_nonfinite: what happens where this worker's weights are not finite: see `Guard`.
    """

    def __init__(
        self,
        job: Job,
        rule: UpdateRule | None,
        param: SolverParameter,
        *,
        name: str,
        learning_rate_scale: Scale,
        on_nonfinite: Reaction,
    ) -> None:
        self.first = job.rank == 0
        self._job = job
        self._rule = sharing_rule(param) if rule is None else rule
        self._name = name
        warmup = param.max_iter // WARM_UP // job.groups
        self._scale = choose(_optimizer(param), None, learning_rate_scale, warmup).scale
        self._on_nonfinite = on_nonfinite
        self._loss_factor = 1.0
        self._lent = False
        self._stack = ExitStack()

    def own_part(self, spec: NetParameter) -> NetParameter:
        """Return the train net with this member's part of each batch."""
        train = filter_net(spec, spec.state)  # batches of test layers are not divided
        own, self._loss_factor = split_batches(train, self._job.group.rank, self._job.group.size)
        return own

    def join(self, solver: Solver) -> None:
        """Join with a solver, at its current iteration.

        Args:
            solver: a solver whose net and weights are made.

        Raises:
            MismatchError: the net or the settings differ from the first worker's.
        """
        job, param = self._job, solver.param
        self._solver = solver
        self._start = solver.iter
        if param.random_seed >= 0:
            torch.manual_seed(param.random_seed + job.rank)  # different dropout in every worker
        for layer in solver.net.layers:
            if shard := getattr(layer, "shard", None):
                shard(job.rank, job.world_size, max(0, param.random_seed))
        with ExitStack() as stack:
            self._group = group_of(job, self._rule, solver.net.device)
            stack.callback(self._group.close)
            tensors = _shared_tensors(solver)
            vectors = flatten(tensors, self._group)
            solver.parameters.bind(vectors[0].flat[: solver.parameters.flat.numel()])
            solver.rule.rebind()
            self._worker = Worker.join(
                job,
                self._rule,
                vectors,
                self._group,
                name=self._name,
                scale=self._scale,
                model={"tensors": [[one.name, one.spec.text] for one in tensors], "solver": _settings(param)},
                timeout=job.timeouts.step,  # the first worker may be testing before,
                steps=self._start // job.groups,
                on_nonfinite=self._on_nonfinite,
                restored=solver.rule.mend,
            )
            stack.callback(self._worker.close)
            self._boundary = Boundary(job, self._worker)
            self._checkpointed = Checkpointed(job, self._name, solver, tensors, self._worker)
            self._stack = stack.pop_all()
        self._iterations = job.box.counter(f"{self._name}/iterations")
        stops = self._iterations.value // STOPPED * STOPPED
        self._stops = int(job.box.value(f"{self._name}/iterations/{job.attempt}").set_default(stops))
        """What stopping workers of earlier runs have added, as the first worker of this run has found it."""
        self._samples = _batch_size(solver) * param.iter_size

    def announce(self) -> None:
        """Log how the learning rate is scaled."""
        if (factor := self._scale.factor(self._scale.warmup_steps, self._job.groups)) != 1:
            _log.info("The learning rate grows to %g times the solver's: --learning-rate-scale", factor)

    @property
    def learning_rate_factor(self) -> float:
        """Factor of the solver's learning rate."""
        return self._worker.learning_rate_factor

    def step(self, iterations: int) -> None:
        """Take part until all workers together have done `iterations` iterations from where the job began."""
        solver = self._solver
        limit = self._start + iterations
        solver.stopped = False
        solver.displayed = (time.perf_counter(), solver.iter)
        before = self._checkpointed.iteration
        self._boundary.begin()
        last = self._checkpointed.iteration
        begun = last != before
        if begun and last is not None:  # where the checkpoint was taken
            solver.iter = last
        number = limit
        while not self._worker.leaving and (number := self._take(limit)) < limit:
            # what falls due at other workers' iterations is done at the next one here
            solver.passed, solver.iter = number - solver.iter + (not begun), number
            self._do_what_is_due()
            begun = True
            loss = solver.forward_backward()
            if self._loss_factor != 1.0:
                solver.parameters.gradient.mul_(self._loss_factor)
            self._group.reduce(solver.parameters.gradient)
            solver.apply_update(number, self._worker.steps)
            self._worker.stepped()
            total = (limit - self._start) * self._samples * self._group.size
            self._job.report(samples=self._samples, total=total, loss=float(loss))
            self._checkpointed.iteration = number
            self._boundary.between()
            self._obey(number)
        if not begun and self.first and not self._worker.leaving:
            _log.warning("All %d iterations were taken when the first worker came", limit)
        solver.stopped = number >= STOPPED or self._worker.leaving
        solver.passed, solver.iter = max(1, limit - solver.iter), limit

    def finish(self) -> bool:
        """Share what this worker learned, and wait for the others.

        Returns:
            Whether this worker does the work at the end of training.
        """
        self._worker.finish(FINISH_SECONDS, self._checkpointed.end)
        solver = self._solver
        if self.first:
            if solver.stopped:
                solver.iter = self._start + self._iterations.value % STOPPED
            solver.passed = 1
            if solver.due(solver.param.snapshot):  # without a job, the solver does that one in `step`
                solver.snapshot()
        return self.first

    @contextmanager
    def shared_weights(self) -> Iterator[None]:
        """Give the net the shared weights inside the `with` block, and restore its own afterwards; may be nested."""
        if self._lent:
            yield
            return
        self._lent = True
        try:
            with self._worker.shared_weights():
                yield
        finally:
            self._lent = False

    @contextmanager
    def snapshot_number(self) -> Iterator[None]:
        """Give the solver inside the number of the iteration at which a snapshot was due, if others did that one."""
        solver = self._solver
        number, due = solver.iter, solver.param.snapshot
        if solver.passed > 1 and due and solver.due(due):
            solver.iter = solver.label(due)
        try:
            yield
        finally:
            solver.iter = number

    def close(self) -> None:
        """Leave the job; closing twice does nothing."""
        self._stack.close()

    def _do_what_is_due(self) -> None:
        """Take the snapshot and run the tests that fell due since this worker's last iteration."""
        solver, param = self._solver, self._solver.param
        if not self.first:
            return
        if solver.due(param.snapshot) and solver.label(param.snapshot) > self._start:
            solver.snapshot()
        if solver.due(param.test_interval) and (solver.label(param.test_interval) > 0 or param.test_initialization):
            solver.test_all()

    def _obey(self, number: int) -> None:
        """Do what a worker asked for."""
        solver = self._solver
        asked = solver.asked()
        if asked == "snapshot" and self.first:
            solver.passed, solver.iter = 1, number + 1
            solver.snapshot()
            solver.iter = number
        elif asked == "stop":
            solver.stopped = True
        if solver.stopped:
            self._iterations.add(STOPPED)

    def _take(self, limit: int) -> int:
        """Return the number of the next iteration of this group; `limit` or more if there is none left."""
        number = 0
        if self._group.rank == 0:
            number = self._start + self._iterations.add(1) - self._stops
            if number >= limit:
                self._iterations.add(-1)  # the counter keeps the number done
        return self._group.broadcast(number)


def _shared_tensors(solver: Solver) -> list[SharedTensor]:
    """Return all parameters: those that learn, in the order of `Parameters`, then the others as statistics."""
    learning = solver.parameters.learnables
    others = [one for one in solver.net.learnables if one not in learning]
    return [
        SharedTensor(name=f"{one.layer}[{one.index}]", tensor=one.tensor, trainable=trainable)
        for some, trainable in ((learning, True), (others, False))
        for one in some
    ]


def _batch_size(solver: Solver) -> int:
    """Return the samples in a batch: the length of the first top that no layer computes from others."""
    net = solver.net
    for step in net.steps:
        if not step.bottoms and step.tops:
            shape = net.blobs[step.spec.top[0]].shape
            return shape[0] if shape else 1
    return 1


def _settings(solver: SolverParameter) -> dict[str, str]:
    """Return what the solver files of all workers must have in common, by name."""
    return {
        field.name: str(value)
        for field, value in solver.ListFields()
        if not field.name.startswith("modum_") and not field.name.endswith("_param")
    }
