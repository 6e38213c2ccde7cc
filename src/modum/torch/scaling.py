"""Scale the learning rate of an optimizer's steps."""

from __future__ import annotations

from functools import wraps
from types import MethodType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.optim import Optimizer

__all__ = ["scale_steps"]


def scale_steps(optimizer: Optimizer, factor: Callable[[], float]) -> Callable[[], None]:
    """Multiply the learning rates by a factor during each step, and restore them however the step ends.

    It replaces `optimizer.step`, as learning rate schedulers do: the optimizer's own hooks are not called after a step
    that has raised.

    Args:
        optimizer: the optimizer.
        factor: returns the factor of the next step.

    Returns:
        A function that ends the scaling.
    """
    inner = optimizer.step
    replaced = vars(optimizer).get("step")
    ended = False

    @wraps(getattr(inner, "__func__", inner))
    def step(optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        times = 1.0 if ended else factor()
        rates = [(group, group["lr"]) for group in optimizer.param_groups if times != 1.0]
        try:
            for group, rate in rates:
                group["lr"] = rate * times
            return inner(*args, **kwargs)
        finally:
            for group, rate in rates:
                group["lr"] = rate

    scaling = MethodType(step, optimizer)
    optimizer.step = scaling  # type: ignore[method-assign]

    def end() -> None:
        nonlocal ended
        ended = True
        if vars(optimizer).get("step") is not scaling:
            return  # a scheduler has wrapped it
        if replaced is None:
            del optimizer.step
        else:
            optimizer.step = replaced  # type: ignore[method-assign]

    return end
