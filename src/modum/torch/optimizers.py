"""What kind of steps an optimizer takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modum.averaging.choice import Optimizer

if TYPE_CHECKING:
    from torch import optim

__all__ = ["described"]


def described(optimizer: optim.Optimizer) -> Optimizer:
    """Return what is known of an optimizer: by its class, one that it inherits from, or the settings that it has."""
    momentum = max((float(group.get("momentum") or 0.0) for group in optimizer.param_groups), default=0.0)
    name = type(optimizer).__name__
    for base in type(optimizer).__mro__:
        found = Optimizer.named(base.__name__, momentum)
        if found.steps != "unknown":
            return Optimizer(name=name, steps=found.steps, momentum=momentum)
    if all("betas" in group for group in optimizer.param_groups):
        return Optimizer(name=name, steps="normalized")
    return Optimizer(name=name, momentum=momentum)
