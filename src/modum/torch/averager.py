"""The front end for PyTorch: hooks an optimizer, so that a training loop hardly changes."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch

from modum.launch import detect
from modum.observe.progress import WorkerProgress
from modum.torch.flat import flatten, shared_tensors, shared_weights
from modum.torch.gradients import GradientBucket
from modum.torch.group import TorchGroup, launched_group
from modum.update import Averaging, Hybrid, LearningRateScale, Membership, SharedSamples, join

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from torch import nn
    from torch.optim import Optimizer

    from modum.box import Box
    from modum.update import AveragingStatistics, UpdateRule


class Averager:
    """Shares a model's weights with all other workers that train it, step by step.

        averager = Averager(model, optimizer, box)
        for batch in averager.samples(size=len(images), epochs=3, batch_size=64):
            ...  # zero_grad, forward, backward, optimizer.step(), as ever
        averager.finish()
        with averager.shared_weights():
            evaluate(model)

    Every call of ``optimizer.step()`` is a step, whatever the optimizer, and however many backward passes
    came before. On return from the constructor the model has the shared weights: those of the first worker.
    Its trainable parameters and float buffers are views of one flat tensor for each dtype; move or cast the
    model before, not after.

    Inside a group, a step is taken by all members or by none: an enabled `torch.amp.GradScaler`, which skips steps
    by each worker's own gradients, works only where workers are their own groups.

    model
        Weights in float32 or bfloat16, on one device. Frozen parameters and integer buffers stay the worker's
        own.
    rule
        ``Hybrid()`` is elastic averaging between the groups that the job was launched with, be they single
        workers.
    name
        What the shared model is called in the box. All workers that use the name train one model.
    learning_rate_scale, warmup_steps
        See `LearningRateScale`. Applied around each step only, so that learning rate schedulers see their own
        values.
    timeout
        Seconds to wait for the worker that makes the shared weights.

    Raises:
        MismatchError: the model (names, shapes, dtypes, memory order) or the settings differ from the first
            worker's.
        ValueError: a tensor has another dtype, nothing is trainable, the optimizer is of another model, or the
            rule knows no groups but the job was launched with groups.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        box: Box,
        rule: UpdateRule | None = None,
        *,
        name: str = "model",
        learning_rate_scale: Literal["sqrt"] | float | None = None,
        warmup_steps: int = 0,
        timeout: float = 60.0,
    ) -> None:
        rule = rule or Hybrid()
        self._scale = LearningRateScale(scale=learning_rate_scale, warmup_steps=warmup_steps)
        self._box = box
        self._name = name
        self._steps = 0
        self._unscaled: list[tuple[dict[str, Any], Any]] = []
        self._shared_weights = False
        self._reported = (0.0, 0.0)
        self._pools = self._pooled = 0
        tensors = shared_tensors(model)
        _check_optimizer(optimizer, {id(shared.tensor) for shared in tensors if shared.trainable})
        environment = detect()
        self.group = _group(rule, environment, tensors[0].tensor.device)
        self.progress = WorkerProgress(box, environment.rank, environment.world_size)
        self._vectors = flatten(tensors, self.group)
        self._buckets = [GradientBucket(vector, self.group) for vector in self._vectors if self.group.size > 1]
        meta = {
            "tensors": [[shared.name, shared.text] for shared in tensors],
            "settings": {
                **rule.settings(),
                "learning_rate_scale": learning_rate_scale,
                "warmup_steps": warmup_steps,
            },
        }
        self._buffers = join(box, name, self._vectors, meta, timeout)
        self._membership = Membership(box, name, leader=self.group.rank == 0)
        self._averaging = Averaging(rule, self._vectors, self._buffers, self.group, self._membership)
        self._averaging.pull()
        self._hooks = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

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
            group=self.group,
            name=f"{self._name}/samples/{number}",
            report=report,
            **options,
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

        For evaluation and saving, by any one worker. No optimizer step is allowed inside. Takes memory for
        one more copy of the model meanwhile.
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

    def finish(self, timeout: float = 600.0) -> None:
        """Do a last exchange, so that nothing learned here is lost, and wait until all others have done theirs.

        Afterwards the shared weights are final. In a group, all members call it; no step may follow.

        Raises:
            DeadlineError: other groups were still training after ``timeout`` seconds.
        """
        self._averaging.finish()
        self._report_exchanges()
        self.progress.flush()
        self._unhook()
        self._membership.leave()
        self._membership.wait_for_others(timeout)

    def statistics(self) -> AveragingStatistics:
        """Steps, exchanges and their times so far, and the interval and moving rate in force."""
        return self._averaging.statistics()

    def close(self) -> None:
        """Leave the job: the pending exchange ends, the optimizer is itself again, the model stays."""
        with ExitStack() as stack:  # in reverse order, and all of it whatever fails
            stack.callback(self.group.close)
            stack.callback(self.progress.flush)
            for buffer in self._buffers:
                stack.callback(buffer.close)
            stack.callback(self._membership.leave)
            stack.callback(self._averaging.close)
            stack.callback(self._unhook)

    def __enter__(self) -> Averager:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self._shared_weights:
            raise RuntimeError("optimizer.step() inside shared_weights(): leave the context first")
        factor = self._scale.factor(self._steps, self._averaging.groups)
        self._unscaled = [(group, group["lr"]) for group in optimizer.param_groups if factor != 1.0]
        for group, learning_rate in self._unscaled:
            group["lr"] = learning_rate * factor
        if not self._buckets:
            return None
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._average_gradients()
            return None
        return (args[0], self._averaged(closure)), {}

    def _after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for group, learning_rate in self._unscaled:
            group["lr"] = learning_rate
        self._steps += 1
        self._averaging.step()
        self._report_exchanges(steps=1)

    def _averaged(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        """The closure of an optimizer that evaluates the loss itself, with the group's means."""

        def evaluate() -> Any:
            loss = torch.as_tensor(closure()).detach().clone()
            self._average_gradients()
            self.group.average(loss)
            return loss

        return evaluate

    def _average_gradients(self) -> None:
        for bucket in self._buckets:
            bucket.average()

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
        for hook in self._hooks:
            hook.remove()
        self._hooks = []


def _check_optimizer(optimizer: Optimizer, shared: set[int]) -> None:
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if not held & shared:
        raise ValueError("the optimizer holds none of the model's trainable parameters: was it made of another model?")


def _group(rule: UpdateRule, environment: Any, device: torch.device) -> TorchGroup:
    if not isinstance(rule, Hybrid):
        if environment.group_size > 1:
            name = type(rule).__name__
            raise ValueError(
                f"the job was launched with groups of {environment.group_size}, but {name} knows no groups: "
                f"use Hybrid(between={name}(...)), or launch with --group-size 1"
            )
        return TorchGroup()
    if rule.inside is not None:
        return TorchGroup(rule.inside, device)
    return launched_group(environment, device)
