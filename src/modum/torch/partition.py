"""Cut PyTorch models into pipeline stages: an `nn.Sequential`, or a list of modules that feed one another."""

from __future__ import annotations

import copy
import time
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

from modum.pipeline import Layer, agree
from modum.torch.stage import TorchStage, in_memory, like, moved, tensors_in

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from modum.job import Job

__all__ = ["partition"]


Model = nn.Sequential | list[nn.Module]
_TIMINGS: Final = 5
"""Measurements per layer: the first one warms up, and the fastest of the others counts."""


def partition(
    job: Job,
    model: Model | Callable[[], Model],
    *,
    stages: int | None = None,
    at: Sequence[str] | None = None,
    sample: Any = None,
    name: str = "pipeline",
) -> TorchStage:
    """Return this worker's stage of a model, with only its layers. Call `TorchStage.prepare` next.

    Sequentials inside the model are opened too; any other module is one layer. Layers are named as in the model's state
    dict: `"0"`, `"features.3"`.

    Args:
        job: from `modum.connect`; rank r computes stage `r % stages`.
        model: the model, or a function that makes it, which saves memory: nothing keeps the other layers once this
            returns. Layers on the `meta` device (`with torch.device("meta"): ...`) are created in memory here by their
            own `reset_parameters`, those of this stage only.
        stages: number of stages; default: one per worker.
        at: names of the first layers of stages 1, 2, ...; default: balanced by the time that each layer takes for
            `sample` on the first worker, and by the bytes of its parameters.
        sample: inputs of the model for one batch of the usual size, a tensor or a tuple; needed for measuring.
        name: name of the pipeline in the box, as given to `Pipeline`.

    Returns:
        The stage, on the CPU unless the model is on another device.

    Raises:
        ValueError: a name in `at` is not a layer, the model has too few layers, `sample` is missing, or a `meta` layer
            cannot create its parameters.
        TypeError: the model is neither a Sequential nor a list of modules.
        MismatchError: workers differ in the model.
    """
    made = model if isinstance(model, nn.Module | list) else model()
    layers = _layers(made)
    forbidden = _shared(layers)
    if at is None and sample is None and (stages or job.world_size) > 1:
        raise ValueError(
            "partition measures the layers to share them out: give it sample=..., the inputs of one batch, "
            "or at=[...], the names of the layers that begin a stage"
        )
    cuts = agree(
        job,
        [layer for layer, _ in layers],
        stages=stages,
        at=at,
        forbidden=forbidden,
        measure=lambda: _measure(layers, sample),
        name=name,
    )
    return TorchStage(cuts, layers[slice(*cuts.own)])


def _layers(model: nn.Module | list[nn.Module]) -> list[tuple[str, nn.Module]]:
    """Return names and layers, with Sequentials opened."""
    if isinstance(model, list | nn.ModuleList):
        model = nn.Sequential(*model)
    if not isinstance(model, nn.Sequential):
        raise TypeError(
            f"the model is a {type(model).__name__}, and only an nn.Sequential (or a list of modules that feed one "
            "another) can be cut: write its forward pass as nn.Sequential(...), with modules of your own inside"
        )
    found: list[tuple[str, nn.Module]] = []
    for name, module in model._modules.items():  # named_children() omits repeated modules
        assert module is not None
        inner = _layers(module) if type(module) is nn.Sequential and len(module) else [("", module)]
        found += [(f"{name}.{rest}" if rest else name, layer) for rest, layer in inner]
    if not found:
        raise ValueError("the model has no layers")
    return found


def _shared(layers: Sequence[tuple[str, nn.Module]]) -> dict[int, str]:
    """Return the places where no cut may lie because both sides use a tensor, with the reason."""
    users: dict[int, list[int]] = {}
    for number, (_, module) in enumerate(layers):
        for tensor in (*module.parameters(), *module.buffers()):
            users.setdefault(id(tensor), []).append(number)
    return {
        place: f"{layers[used[0]][0]} and {layers[used[-1]][0]} share a parameter"
        for used in users.values()
        for place in range(used[0] + 1, used[-1] + 1)
    }


def _measure(layers: Sequence[tuple[str, nn.Module]], sample: Any) -> list[Layer]:
    """Return the cost of each layer for the sample, forward and backward; weights and random state do not change."""
    state = torch.get_rng_state()
    costs = []
    value = sample
    for name, original in layers:
        module = copy.deepcopy(in_memory(name, original)).train()
        device = next((tensor.device for tensor in (*module.parameters(), *module.buffers())), torch.device("cpu"))
        value = moved(value, device)
        seconds = []
        for _ in range(_TIMINGS):
            # copies, as layers may work in place
            given = [tensor.detach().requires_grad_(tensor.is_floating_point()).clone() for tensor in tensors_in(value)]
            start = time.perf_counter()
            result = module(like(value, iter(given)))
            outputs = [tensor for tensor in tensors_in(result) if tensor.requires_grad]
            if outputs:
                torch.autograd.backward(outputs, [torch.ones_like(tensor) for tensor in outputs])
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - start)
        nbytes = sum(parameter.nbytes for parameter in module.parameters())
        costs.append(Layer(name=name, seconds=min(seconds[1:]), nbytes=nbytes))
        value = like(result, (tensor.detach() for tensor in tensors_in(result)))
    torch.set_rng_state(state)
    return costs
