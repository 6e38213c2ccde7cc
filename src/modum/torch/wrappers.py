"""Models that something else distributes already: unwrapped where that changes nothing, else refused by name."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from torch.nn.parallel import DataParallel, DistributedDataParallel

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

__all__ = ["plain_names"]

_COMPILED: Final = "_orig_mod."
_WRAPPED: Final = "module."
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


def _classes(module: str, *names: str) -> tuple[type, ...]:
    """Return the classes of a module, if somebody has imported it: else there are no objects of them."""
    found = sys.modules.get(module)
    return tuple(getattr(found, name) for name in names if hasattr(found, name))
