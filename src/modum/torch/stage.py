"""A pipeline stage that PyTorch computes."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from modum.pipeline import Stage, Weight

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from torch.optim import Optimizer

    from modum.pipeline import Cuts

__all__ = ["TorchStage"]


@dataclass(slots=True)
class _Pass:
    """What the backward pass of a micro-batch needs from its forward pass."""

    modules: nn.ModuleList
    inputs: list[Tensor]
    outputs: list[Tensor]


class TorchStage(Stage):
    """Layers of a PyTorch model as one stage of a pipeline; made by `partition`.

    Weights are stashed for a micro-batch as copies of the stage's layers, so that optimizers may change the layers in
    place. The copies share the buffers: running statistics move once per micro-batch.
    """

    framework = "torch"

    def __init__(self, cuts: Cuts, layers: Sequence[tuple[str, nn.Module]]) -> None:
        self.index = cuts.index
        self.stages = cuts.stages
        self.layers = tuple(name for name, _ in layers)
        self.results = ("loss",)
        self.modules = nn.ModuleList([in_memory(name, module) for name, module in layers])
        """The stage's layers, as they are in the model: move them to a device before `prepare`."""
        self._passes: dict[int, _Pass] = {}
        self._spare: list[nn.ModuleList] = []
        self._optimizer: Optimizer | None = None
        self._loss: Callable[[Any, Any], Tensor] | None = None
        self._metrics: dict[str, Callable[[Any, Any], Any]] = {}

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield this stage's parameters, for the optimizer."""
        return self.modules.parameters()

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield this stage's parameters with their names in the whole model's state dict."""
        for layer, module in zip(self.layers, self.modules, strict=True):
            for name, parameter in module.named_parameters():
                yield f"{layer}.{name}", parameter

    def prepare(
        self,
        optimizer: Optimizer | None,
        loss: Callable[[Any, Any], Tensor],
        metrics: Mapping[str, Callable[[Any, Any], Any]] | None = None,
    ) -> None:
        """Set the optimizer, loss and metrics. Every worker calls this alike, with an optimizer of its own parameters.

        Args:
            optimizer: any optimizer of `parameters`; None only for a stage without trainable parameters.
            loss: called as `loss(outputs, labels)` on the last stage; returns the mean over the samples.
            metrics: functions like `loss`, by name; they return numbers or tensors of one element.

        Raises:
            ValueError: the stage has trainable parameters, but the optimizer is missing or holds none of them.
        """
        own = {id(parameter) for parameter in self.parameters() if parameter.requires_grad}
        held = [] if optimizer is None else [p for group in optimizer.param_groups for p in group["params"]]
        if own and not own & {id(parameter) for parameter in held}:
            raise ValueError(
                f"stage {self.index}: the optimizer holds none of its parameters: make it of stage.parameters()"
            )
        self._optimizer = optimizer
        self._loss = loss
        self._metrics = dict(metrics or {})
        self.results = ("loss", *self._metrics)

    # ---- Stage

    def forward(self, number: int, inputs: Any, labels: Any = None, weight: float = 1.0) -> list[NDArray[Any]]:
        modules = self._version() if self.stash and not self.last else self.modules
        value, received = self._received(inputs, differentiable=not self.first)
        if received and getattr(modules[0], "inplace", False):
            value = like(value, iter([tensor.clone() for tensor in tensors_in(value)]))
        for module in modules:
            value = module(value)
        if self.last:
            loss, results = self._judge(value, labels)
            self._passes[number] = _Pass(modules, received, [loss * weight])
            return [results]
        outputs, arrays = _packed(value, self.layers[-1])
        self._passes[number] = _Pass(modules, received, [tensor for tensor in outputs if tensor.is_floating_point()])
        return arrays

    def backward(self, number: int, gradients: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        was = self._passes.pop(number)
        if self.last:
            was.outputs[0].backward()  # type: ignore[no-untyped-call]
        else:
            pairs = [
                (output, _tensor(array, output))
                for output, array in zip(was.outputs, gradients, strict=True)
                if output.requires_grad
            ]
            torch.autograd.backward([output for output, _ in pairs], [gradient for _, gradient in pairs])
        if was.modules is not self.modules:
            for parameter, version in zip(self.parameters(), was.modules.parameters(), strict=True):
                if version.grad is not None:
                    parameter.grad = version.grad if parameter.grad is None else parameter.grad.add_(version.grad)
                    version.grad = None
            self._spare.append(was.modules)
        return [_array(torch.zeros_like(x) if x.grad is None else x.grad) for x in was.inputs]

    def update(self) -> None:
        if self._optimizer is not None:
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def evaluate(self, inputs: Any, labels: Any = None) -> list[NDArray[Any]]:
        modes = [(module, module.training) for module in self.modules.modules()]
        self.modules.eval()
        value, _ = self._received(inputs, differentiable=False)
        for module in self.modules:
            value = module(value)
        for module, mode in modes:
            module.training = mode  # frozen layers may have been in another mode
        return [self._judge(value, labels)[1]] if self.last else _packed(value, self.layers[-1])[1]

    @property
    def versions(self) -> int:
        return 1 + len({id(each.modules) for each in self._passes.values()} - {id(self.modules)})

    def weights(self) -> list[Weight]:
        trainable = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        return [Weight(name=name, array=_array(tensor), trainable=name in trainable) for name, tensor in self._state()]

    @torch.no_grad()
    def assign(self, weights: Mapping[str, NDArray[Any]]) -> None:
        for name, tensor in self._state():
            if name in weights:
                tensor.copy_(_tensor(weights[name], tensor))

    def assemble(self, weights: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
        """Return the whole model's state dict, on the CPU, for the model as it was before the cut."""
        return {name: torch.from_numpy(array.copy()) for name, array in weights.items()}

    # ---- inside

    def _state(self) -> Iterator[tuple[str, Tensor]]:
        for layer, module in zip(self.layers, self.modules, strict=True):
            for name, tensor in module.state_dict().items():
                yield f"{layer}.{name}", tensor

    @property
    def _device(self) -> torch.device:
        return next((tensor.device for _, tensor in self._state()), torch.device("cpu"))

    @torch.no_grad()
    def _version(self) -> nn.ModuleList:
        """Return the layers with a copy of the current weights."""
        if not self._spare:
            shared = {id(buffer): buffer for buffer in self.modules.buffers()}
            copied = copy.deepcopy(self.modules, shared)
            copied.zero_grad(set_to_none=True)
            return copied
        modules = self._spare.pop()
        for version, parameter in zip(modules.parameters(), self.parameters(), strict=True):
            version.copy_(parameter)
        return modules

    def _received(self, inputs: Any, *, differentiable: bool) -> tuple[Any, list[Tensor]]:
        """Return the value for the first layer, and its tensors whose gradients go back."""
        if self.first:
            return moved(inputs, self._device), []
        form, *arrays = inputs
        waiting = iter(arrays)
        received: list[Tensor] = []

        def build(part: Any) -> Any:
            if isinstance(part, list):
                return tuple(build(one) for one in part)
            tensor = _tensor(next(waiting), torch.empty(0, dtype=getattr(torch, part), device=self._device))
            if differentiable and tensor.is_floating_point():
                received.append(tensor.requires_grad_())
            return tensor

        return build(json.loads(form.tobytes())), received

    def _judge(self, outputs: Any, labels: Any) -> tuple[Tensor, NDArray[np.float64]]:
        """Return the loss, and the results to report."""
        if self._loss is None:
            raise RuntimeError("the stage does not know its loss: call stage.prepare(optimizer, loss) first")
        labels = moved(labels, self._device)
        loss = self._loss(outputs, labels)
        with torch.no_grad():
            metrics = [float(metric(outputs, labels)) for metric in self._metrics.values()]
        return loss, np.array([loss.item(), *metrics])


def in_memory(name: str, module: nn.Module) -> nn.Module:
    """Return the module; if it is on the meta device, a new one in memory with freshly initialized parameters."""
    if not any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers())):
        return module
    module = copy.deepcopy(module).to_empty(device="cpu")
    for inner, part in module.named_modules():
        own = [*part.parameters(recurse=False), *part.buffers(recurse=False)]
        reset = getattr(part, "reset_parameters", None)
        if own and reset is None:
            path = f"{name}.{inner}" if inner else name
            raise ValueError(
                f"{path} ({type(part).__name__}) is on the meta device and has no reset_parameters() to make its "
                "values: give it one, or build the model in memory"
            )
        if own and reset is not None:
            reset()
    return module


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors in a tensor or in nested tuples or lists."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, tuple | list):
        return [tensor for part in value for tensor in tensors_in(part)]
    raise TypeError(f"{type(value).__name__}: layers of a pipeline pass on tensors, and tuples or lists of them")


def like(value: Any, tensors: Iterator[Tensor]) -> Any:
    """Return a value of the same form with other tensors; lists become tuples."""
    return next(tensors) if isinstance(value, Tensor) else tuple(like(part, tensors) for part in value)


def moved(value: Any, device: torch.device) -> Any:
    """Return a value with its tensors on `device`; arrays become tensors, all else stays the same."""
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, tuple | list):
        return type(value)(moved(part, device) for part in value)
    return value


def _packed(value: Any, layer: str) -> tuple[list[Tensor], list[NDArray[Any]]]:
    """Return the tensors of a value, and the arrays for the next stage: the value's form as JSON, then its tensors."""

    def form(part: Any) -> Any:
        return str(part.dtype).removeprefix("torch.") if isinstance(part, Tensor) else [form(one) for one in part]

    try:
        tensors = tensors_in(value)
    except TypeError as error:
        raise TypeError(f"behind layer {layer!r} lies a cut, and it returned a {error}") from None
    text = np.frombuffer(json.dumps(form(value)).encode(), np.uint8)
    return tensors, [text, *(_array(tensor) for tensor in tensors)]


def _array(tensor: Tensor) -> NDArray[Any]:
    """Return a tensor as an array in host memory; bfloat16 as its bits."""
    tensor = tensor.detach().cpu().contiguous()
    array: NDArray[Any] = (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array


def _tensor(array: NDArray[Any], like: Tensor) -> Tensor:
    """Reverse `_array`, with the dtype and device of `like`."""
    tensor = torch.from_numpy(array)
    return (tensor.view(torch.bfloat16) if like.dtype == torch.bfloat16 else tensor).to(like.device)
