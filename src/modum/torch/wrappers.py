"""Models that something else distributes already, and optimizers in others: unwrapped where that changes nothing.

Else they are refused by name.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim import Optimizer

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

__all__ = ["plain_names", "plain_optimizer"]

_COMPILED: Final = "_orig_mod."
_WRAPPED: Final = "module."
_INNER: Final = ("optimizer", "_optimizer", "optim", "base_optimizer")
"""Where wrappers keep the optimizer that they wrap."""
_WHOLE: Final = (
    "every worker needs the whole model: leave it out, and cut a model that is too large into stages "
    "(modum.torch.partition)"
)


def plain_names(model: nn.Module) -> Callable[[str], str]:
    """Check that nothing else distributes the model, and return what makes its tensors' names those without wrappers.

    A `DistributedDataParallel` over one process and a `DataParallel` over one device are wrappers that do nothing.

    Args:
        model: the model, which may be wrapped, and compiled; so may its parts.

    Returns:
        A function from a name in the model to the name in the model as it was before.

    Raises:
        ValueError: it is distributed by `DistributedDataParallel`, `DataParallel`, FSDP or as DTensors; the message
            says what to do instead.
    """
    sharded = _classes("torch.distributed.fsdp", "FullyShardedDataParallel", "FSDPModule")
    layers = []
    for path, module in model.named_modules():
        where = path or "the model"
        if isinstance(module, sharded):
            raise ValueError(f"{where} is sharded ({type(module).__name__}): {_WHOLE}")
        if isinstance(module, DistributedDataParallel):
            if (processes := module.process_group.size()) > 1:
                raise ValueError(
                    f"{where} is a DistributedDataParallel over {processes} processes: Averager averages gradients "
                    "inside a group itself, and weights between groups, so train the model without it (model.module)\n"
                    "HINT: does the script look for RANK and WORLD_SIZE? Call modum.connect() before that"
                )
        elif isinstance(module, DataParallel):
            if (devices := len(module.device_ids)) > 1:
                raise ValueError(
                    f"{where} is a DataParallel over {devices} devices: train the model without it (model.module), and "
                    f"start {devices} workers with a device each, such as torch.device('cuda', job.local_rank)"
                )
        else:
            continue
        layers.append(f"{path}.{_WRAPPED}" if path else _WRAPPED)
    tensors = _classes("torch.distributed.tensor", "DTensor")
    for name, parameter in model.named_parameters():
        if isinstance(parameter, tensors):
            raise ValueError(f"{name} is a DTensor, part of a parameter (fully_shard, parallelize_module): {_WHOLE}")

    def plain(name: str) -> str:
        for layer in reversed(layers):  # the innermost first
            if name.startswith(layer):
                name = layer.removesuffix(_WRAPPED) + name.removeprefix(layer)
        return name.replace(_COMPILED, "")

    return plain


def plain_optimizer(optimizer: Any) -> Optimizer:
    """Return the optimizer of PyTorch whose steps can be counted: the given one, or the one that it wraps.

    Wrappers of Accelerate, Lightning and others hold one and are none themselves, or only in name: they have no hooks.

    Args:
        optimizer: an optimizer, or what wraps one.

    Returns:
        The optimizer.

    Raises:
        TypeError: it is none and wraps none.
        ValueError: it has the state of some parameters only (`ZeroRedundancyOptimizer`).
    """
    sharded = _classes("torch.distributed.optim", "ZeroRedundancyOptimizer")
    kind = type(optimizer)
    while not _hooked(optimizer):
        inner = _inner_optimizer(optimizer)
        if inner is None:
            raise TypeError(
                f"the optimizer ({kind.__module__}.{kind.__qualname__}) is no torch.optim.Optimizer and wraps none as "
                f"its {', '.join(_INNER)}: give Averager the one whose step() changes the weights"
            )
        optimizer = inner
    if isinstance(optimizer, sharded):
        raise ValueError(
            "ZeroRedundancyOptimizer steps a part of the parameters in each process, and every worker needs all of "
            "them: give Averager a plain optimizer"
        )
    plain: Optimizer = optimizer
    return plain


def _hooked(optimizer: Any) -> bool:
    """Whether an object is an optimizer that was made as one, so that its steps call hooks."""
    return isinstance(optimizer, Optimizer) and "_optimizer_step_pre_hooks" in vars(optimizer)


def _inner_optimizer(optimizer: Any) -> Any:
    """Return what an object wraps that may be an optimizer; None: nothing."""
    found = (getattr(optimizer, name, None) for name in _INNER)
    return next(
        (inner for inner in found if inner is not None and inner is not optimizer and hasattr(inner, "step")), None
    )


def _classes(module: str, *names: str) -> tuple[type, ...]:
    """Return the classes of a module, if somebody has imported it: else there are no objects of them."""
    found = sys.modules.get(module)
    return tuple(getattr(found, name) for name in names if hasattr(found, name))
