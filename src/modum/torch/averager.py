"""The front end for PyTorch: hooks an optimizer, so that a training loop hardly changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch

from modum.averaging import LearningRateScale, Worker
from modum.cluster import detect
from modum.rules import Hybrid
from modum.rules.hybrid import check_groups
from modum.torch.flat import flatten, shared_tensors
from modum.torch.gradients import GradientBucket
from modum.torch.group import TorchGroup, launched_group

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn
    from torch.optim import Optimizer

    from modum.box import Box
    from modum.cluster import ClusterEnvironment
    from modum.rules import UpdateRule


class Averager(Worker):
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
        learning_rate_scale: Literal["linear", "sqrt"] | float | None = None,
        warmup_steps: int = 0,
        timeout: float = 60.0,
    ) -> None:
        rule = rule or Hybrid()
        scale = LearningRateScale(scale=learning_rate_scale, warmup_steps=warmup_steps)
        tensors = shared_tensors(model)
        _check_optimizer(optimizer, {id(shared.tensor) for shared in tensors if shared.trainable})
        group = group_of(rule, detect(), tensors[0].tensor.device)
        super().__init__(box, name, group)
        self._group = group
        self._unscaled: list[tuple[dict[str, Any], Any]] = []
        vectors = flatten(tensors, group)
        self._buckets = [GradientBucket(vector, group) for vector in vectors if group.size > 1]
        described = {"tensors": [[shared.name, shared.text] for shared in tensors]}
        self.join(rule, vectors, scale, model=described, timeout=timeout)
        self._hooks = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

    def _before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        self.check_own_weights()
        factor = self.learning_rate_factor
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
        self.stepped()

    def _averaged(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        """The closure of an optimizer that evaluates the loss itself, with the group's means."""

        def evaluate() -> Any:
            loss = torch.as_tensor(closure()).detach().clone()
            self._average_gradients()
            self._group.average(loss)
            return loss

        return evaluate

    def _average_gradients(self) -> None:
        for bucket in self._buckets:
            bucket.average()

    def _unhook(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []


def _check_optimizer(optimizer: Optimizer, shared: set[int]) -> None:
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if not held & shared:
        raise ValueError("the optimizer holds none of the model's trainable parameters: was it made of another model?")


def group_of(rule: UpdateRule, environment: ClusterEnvironment, device: torch.device) -> TorchGroup:
    """The group that the rule names, else the one that the job was launched with; ValueError if they contradict."""
    check_groups(rule, environment)
    if not isinstance(rule, Hybrid):
        return TorchGroup()
    if rule.inside is not None:
        return TorchGroup(rule.inside, device)
    return launched_group(environment, device)
