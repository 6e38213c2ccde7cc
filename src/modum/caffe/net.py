"""A Caffe net in PyTorch: `Net`, with the methods and attributes of pycaffe's."""

from __future__ import annotations

import logging
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from modum.caffe.blob import Activation, LayerView, Weight
from modum.caffe.debug import Trace
from modum.caffe.device import default_device
from modum.caffe.diffs import write_diffs
from modum.caffe.errors import CaffeError
from modum.caffe.filters import filter_net
from modum.caffe.graph import build, sources
from modum.caffe.in_batches import forward_all, forward_backward_all
from modum.caffe.proto import TRAIN, NetParameter, NetState
from modum.caffe.prototxt import read_net
from modum.caffe.weights import read_weights, same_shape, write_weights

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import TracebackType

    from numpy.typing import NDArray
    from torch import Tensor

    from modum.caffe.graph import Learnable, Step
    from modum.caffe.parameters import Parameters

__all__ = ["Net"]

_log = logging.getLogger(__name__)

Arrays = dict[str, "NDArray[np.float32]"]


class Net:
    """A net for one phase; autograd computes its backward pass.

        net = Net("train_val.prototxt", TEST, weights="net.caffemodel")
        net.blobs["data"].data[...] = images
        print(net.forward()["prob"])

    Args:
        model: a prototxt file, or the message read from one; it is filtered by phase, stages and level here.
        phase: `TRAIN` or `TEST`. pycaffe's older order `Net(model, weights, phase)` works too.
        weights: a `.caffemodel` or `.h5` file to copy from, or several, in this order.
        stages: stages of the state by which the net is filtered.
        level: level of that state.
        seed: seed of the fillers; None draws from PyTorch's global generator.
        device: where the layers compute; None: as set by `set_mode_gpu` and the like, by default the CPU.
        fuse: compute a batch normalization and an in-place Scale layer after it as one: faster, but the blob
            that they share never holds the value between them.

    Raises:
        ModelError: the net is not valid; the message has file, line and layer.
        CaffeError: the weights cannot be read, or do not fit.
    """

    def __init__(
        self,
        model: str | Path | NetParameter,
        phase: int | str | Path = TRAIN,
        weights: int | str | Path | Sequence[str | Path] | None = None,
        *,
        stages: Iterable[str] = (),
        level: int | None = None,
        seed: int | None = None,
        device: torch.device | str | None = None,
        fuse: bool = False,
    ) -> None:
        if isinstance(phase, str | Path):
            phase, weights = (weights if isinstance(weights, int) else TRAIN), phase
        assert not isinstance(weights, int), "a phase was given twice"
        source = read_net(Path(model)) if isinstance(model, str | Path) else model
        state = NetState()
        state.CopyFrom(source.state)
        state.phase = phase
        state.stage.extend(stages)
        if level is not None:
            state.level = level
        self.spec: NetParameter = filter_net(source, state)
        self.name: str = source.name
        self.phase = phase
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        self._graph = graph = build(self.spec, phase, generator, fuse=fuse)
        self._steps = graph.steps
        self._layer_names: list[str] = [step.name for step in graph.steps]
        self.layers: list[LayerView] = [
            LayerView(step.layer, [Weight(step.layer, index) for index in range(len(step.layer.blobs))])
            for step in graph.steps
        ]
        self.layer_dict: dict[str, LayerView] = OrderedDict(zip(self._layer_names, self.layers, strict=True))
        self.inputs: list[str] = [graph.names[number] for number in graph.inputs]
        self.outputs: list[str] = [graph.names[number] for number in graph.outputs]
        self._values: list[Tensor | None] = [None] * len(graph.names)
        self._fed: list[Tensor | None] = [None] * len(graph.names)
        """The inputs that the user writes into, in host memory on every device."""
        fed = set(graph.inputs)
        self.blobs: dict[str, Activation] = OrderedDict(
            (name, Activation(self._fed if number in fed else self._values, graph.shapes, number))
            for number, name in enumerate(graph.names)
            if name != "(automatic)"
        )
        self.params: dict[str, list[Weight]] = OrderedDict(
            (layer.name, layer.blobs) for layer in self.layers if layer.blobs
        )
        self._losses: list[tuple[Tensor, float]] = []
        self._differentiable = False
        """Whether the values come from a forward pass that autograd recorded."""
        self._trace: Trace | None = None
        self.debug_info(on=source.debug_info)
        self._forced = sources(self._steps) if source.force_backward else frozenset()
        self.device = torch.device("cpu")
        self.to(default_device() if device is None else device)
        for path in [weights] if isinstance(weights, str | Path) else weights or ():
            self.copy_from(path)

    # -- pycaffe's interface

    @property
    def top_names(self) -> dict[str, list[str]]:
        """Names of each layer's tops."""
        return OrderedDict((step.name, list(step.spec.top)) for step in self._steps)

    @property
    def bottom_names(self) -> dict[str, list[str]]:
        """Names of each layer's bottoms."""
        return OrderedDict((step.name, list(step.spec.bottom)) for step in self._steps)

    @property
    def blob_loss_weights(self) -> dict[str, float]:
        """Weight of each blob in the loss: 0 for most."""
        weights = self._graph.weights
        return OrderedDict((name, weights.get(number, 0.0)) for number, name in enumerate(self._graph.names))

    @property
    def loss(self) -> float:
        """Weighted sum of all losses of the last forward pass."""
        return float(self._total())

    def forward(
        self,
        blobs: Sequence[str] | None = None,
        start: str | None = None,
        end: str | None = None,
        **inputs: NDArray[Any],
    ) -> Arrays:
        """Run the layers from `start` to `end`.

        Args:
            blobs: names of blobs to return besides the outputs.
            start: name of the first layer to run; None: the net's first.
            end: name of the last layer to run; None: the net's last.
            **inputs: arrays for inputs of the net, which adopt their shapes.

        Returns:
            The net's outputs (with `end` the tops of that layer) and `blobs`, by name: float32 views that the next
            pass overwrites.

        Raises:
            ValueError: this net has no such input, blob or layer.
        """
        for name, array in inputs.items():
            if name not in self.inputs:
                raise ValueError(f"{name!r} is not an input of the net, which has {', '.join(self.inputs) or 'none'}")
            self.blobs[name].reshape(*np.shape(array))
            self.blobs[name].data[...] = array
        first, last = self._range(start, end)
        self._differentiable = self.phase == TRAIN or bool(self._forced)
        with torch.set_grad_enabled(self._differentiable):
            self._run(self._steps[first : last + 1])
        named = self._steps[last].spec.top if end is not None else self.outputs
        return {name: self._blob(name).data for name in (*named, *(blobs or ()))}

    def backward(
        self,
        diffs: Sequence[str] | None = None,
        start: str | None = None,
        end: str | None = None,
        **gradients: NDArray[Any],
    ) -> Arrays:
        """Compute the gradients of all blobs and parameters; those of parameters are added to the present ones.

        The pass begins at the losses; with `start` at the tops of that layer, with their present `diff` (the
        user's, or the loss weight); with `gradients` at the blobs that they name. If the forward pass was not
        recorded (phase TEST), it is run again first, on the same data.

        Args:
            diffs: names of blobs whose gradients to return too.
            start: name of the layer to begin at.
            end: name of the layer to end at.
            **gradients: gradients of blobs, by name.

        Returns:
            The diffs of the net's inputs (with `end`: of that layer's bottoms) and of `diffs`, by name. An input has
            one only if the net says `force_backward: true`.

        Raises:
            ValueError: this net has no such blob or layer.
        """
        if not self._differentiable:
            self._differentiable = True
            with torch.enable_grad():
                self._run([step for step in self._steps if step.bottoms])
        numbers = [number for number, value in enumerate(self._values) if value is not None and value.requires_grad]
        values = [value for value in self._values if value is not None and value.requires_grad]
        for value in values:
            value.retain_grad()
            value.grad = None
        roots = self._roots(start, gradients)
        if roots:
            torch.autograd.backward([root for root, _ in roots], [gradient for _, gradient in roots], retain_graph=True)
        if self._trace is not None:
            self._trace.backward()
        names = self._graph.names
        for number, value in zip(numbers, values, strict=True):
            if names[number] in self.blobs:
                self.blobs[names[number]].keep_gradient(value.grad)
        wanted = self._steps[self._layer_names.index(end)].spec.bottom if end is not None else self.inputs
        return {name: self._blob(name).diff for name in (*wanted, *(diffs or ()))}

    def forward_all(self, blobs: Sequence[str] | None = None, **inputs: NDArray[Any]) -> Arrays:
        """Run `forward` for `inputs` of any number of rows, batch by batch; return copies of all rows."""
        return forward_all(self, blobs, inputs)

    def forward_backward_all(
        self, blobs: Sequence[str] | None = None, diffs: Sequence[str] | None = None, **arrays: NDArray[Any]
    ) -> tuple[Arrays, Arrays]:
        """Run `forward` and `backward` for `arrays` of any number of rows: inputs, and gradients of outputs."""
        return forward_backward_all(self, blobs, diffs, arrays)

    def clear_param_diffs(self) -> None:
        """Set the gradients of all parameters to zero."""
        for blobs in self.params.values():
            for blob in blobs:
                if blob.tensor.grad is not None:
                    blob.tensor.grad.zero_()

    def reshape(self) -> None:
        """Propagate new input shapes through all layers, so that all blobs have theirs before a forward pass."""
        shapes = self._graph.shapes
        for step in self._steps:
            if step.bottoms:
                before = [torch.Size(shapes[number]) for number in step.bottoms]
                if before != step.seen:
                    self._fit(step, before)
            for number in step.tops:
                value = self._values[number]
                if value is not None and tuple(value.shape) != shapes[number]:
                    self._values[number] = None

    def share_with(self, other: Net) -> None:
        """Use another net's parameters in all layers of the same name, from now on.

        Args:
            other: the net with the parameters.

        Raises:
            CaffeError: a layer of the same name has different blobs there.
        """
        for step in self._steps:
            view = other.layer_dict.get(step.name)
            if view is None or not view.blobs:
                continue
            mine, theirs = step.layer.blobs, view.layer.blobs
            shapes = [tuple(blob.shape) for blob in mine], [tuple(blob.shape) for blob in theirs]
            if shapes[0] != shapes[1]:
                raise CaffeError(f'layer "{step.name}" cannot share its blobs: {shapes[0]} here, {shapes[1]} there')
            for index, blob in enumerate(theirs):
                mine[index] = blob

    def save(self, path: str | Path, *, diff: bool = False) -> None:
        """Write the weights to a `.caffemodel` (or `.h5`) file, and with `diff` also their gradients."""
        layers = [step.spec for step in self._steps]
        values = {name: [blob.data for blob in some] for name, some in self.params.items()}
        write_weights(path, layers, values, self.name)
        if diff:
            write_diffs(path, {name: [blob.diff for blob in some] for name, some in self.params.items()})

    @torch.no_grad()
    def copy_from(self, path: str | Path) -> None:
        """Copy the weights of all layers that a file has under the same name.

        Args:
            path: a `.caffemodel` or `.h5` file.

        Raises:
            CaffeError: the file cannot be read, or a layer's blobs differ in number or shape.
        """
        for name, arrays in read_weights(Path(path)).items():
            view = self.layer_dict.get(name)
            if view is None:
                _log.info("Ignoring source layer %s", name)
                continue
            layer = view.layer
            if arrays and len(arrays) != len(layer.blobs):
                raise layer.error(f"number of blobs: {len(layer.blobs)}, but {len(arrays)} in {path}")
            for index, (blob, array) in enumerate(zip(layer.blobs, arrays, strict=False)):
                if not same_shape(array.shape, tuple(blob.shape)):
                    raise layer.error(
                        f"blob {index} has shape {tuple(blob.shape)}, but {array.shape} in {path}; "
                        "to learn this layer from scratch, give it another name"
                    )
                blob.copy_(torch.from_numpy(np.array(array, np.float32, order="C")).view(blob.shape))

    def set_input_arrays(self, data: NDArray[np.float32], labels: NDArray[np.float32]) -> None:
        """Set what a MemoryData layer returns from now on.

        Args:
            data: [n, channels, height, width], n a multiple of the batch size.
            labels: [n], or [n, 1, 1, 1].

        Raises:
            ValueError: the net has no MemoryData layer, or the arrays do not fit it.
        """
        for step in self._steps:
            if step.spec.type == "MemoryData":
                step.layer.set_input_arrays(data, labels)  # type: ignore[operator]
                return
        raise ValueError("the net has no MemoryData layer")

    # -- what solvers use

    @property
    def learnables(self) -> list[Learnable]:
        """The parameters, shared ones once, in the order of Caffe's `learnable_params`."""
        return self._graph.learnables

    @property
    def steps(self) -> list[Step]:
        """The layers in order, with the numbers of the blobs that they read and make."""
        return self._steps

    def compute(self) -> Tensor:
        """Do a forward pass without gradients and return the loss. `output_values` has the outputs."""
        self._differentiable = False
        with torch.no_grad():
            self._run(self._steps)
        return self._total()

    def forward_backward(self) -> Tensor:
        """Do a forward and a backward pass, adding to the parameters' gradients, and return the loss."""
        self._differentiable = True
        self._run(self._steps)
        roots = [(top, torch.full_like(top, weight)) for top, weight in self._losses if top.requires_grad]
        if roots:
            torch.autograd.backward([root for root, _ in roots], [gradient for _, gradient in roots])
        if self._trace is not None:
            self._trace.backward()
        self._differentiable = False  # the graph is gone
        return self._total()

    def output_values(self) -> list[tuple[str, float, Tensor]]:
        """Return name, loss weight and newest value of every output."""
        graph = self._graph
        return [
            (graph.names[number], graph.weights.get(number, 0.0), self._value(number).detach())
            for number in graph.outputs
        ]

    def debug_info(self, *, on: bool) -> None:
        """Set whether every pass logs the mean absolute values of all blobs and gradients."""
        self._trace = Trace(self._graph) if on else None

    def log_update(self, parameters: Parameters) -> None:
        """Log an update, if debug information is on."""
        if self._trace is not None:
            self._trace.update(parameters)

    def to(self, device: torch.device | str) -> Self:
        """Move all parameters to `device` and compute there."""
        self.device = torch.device(device)
        for step in self._steps:
            step.layer.to(self.device)
        return self

    def close(self) -> None:
        """End the threads and close the files of the data layers."""
        for layer in (step.layer for step in self._steps):
            if close := getattr(layer, "close", None):
                close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # -- the passes

    def run_step(self, step: Step, bottoms: list[Tensor]) -> list[Tensor]:
        """Return the tops of a layer: computed from `bottoms`, or the user's, or the next batch."""
        if not bottoms:
            return self._feed(step)
        shapes = [tensor.shape for tensor in bottoms]
        if shapes != step.seen:
            self._fit(step, shapes)
        for position in step.cut:
            bottoms[position] = bottoms[position].detach()
        try:
            return list(step.layer(*bottoms))
        except (IndexError, RuntimeError) as error:
            if step.spec.type == "Python":
                raise  # the user's own error, with its traceback
            wrong = "bounds" in str(error) or "range" in str(error)
            raise step.layer.error(f"{'a label or index is too large: ' if wrong else ''}{error}") from error

    def _run(self, steps: Sequence[Step]) -> None:
        values = self._values
        losses = self._losses = []
        trace = self._trace
        if trace is not None:
            trace.begin()
        for step in steps:
            bottoms = [self._value(number) for number in step.bottoms]
            tops = self.run_step(step, bottoms)
            for number, top in zip(step.tops, tops, strict=True):
                values[number] = top
            for position, weight in step.losses:
                losses.append((tops[position], weight))
            if trace is not None:
                trace.record(step, bottoms, tops)
        if trace is not None:
            trace.forward()

    def _feed(self, step: Step) -> list[Tensor]:
        """Return the tops of a layer without bottoms, on the device."""
        given = [self.blobs[name].tensor for name in step.spec.top] if step.fed else step.layer()
        tops = []
        for number, top in zip(step.tops, given, strict=True):
            value = top if top.device == self.device else top.to(self.device, non_blocking=True)
            if self.device.type == "cuda" and value.dim() == 4:
                value = value.contiguous(memory_format=torch.channels_last)
            if number in self._forced and torch.is_grad_enabled():
                value = value.detach().requires_grad_()
            self._graph.shapes[number] = tuple(value.shape)
            tops.append(value)
        return tops

    def _fit(self, step: Step, shapes: list[torch.Size]) -> None:
        """Reshape a layer if its bottoms' shapes have changed."""
        tops = step.layer.reshape([tuple(shape) for shape in shapes])
        step.seen = shapes
        for number, shape in zip(step.tops, tops, strict=True):
            self._graph.shapes[number] = tuple(shape)

    def _total(self) -> Tensor:
        total = torch.zeros((), device=self.device)
        for top, weight in self._losses:
            total = total + top.detach().sum() * weight
        return total

    def _value(self, number: int) -> Tensor:
        value = self._values[number]
        if value is None:  # a pass that begins in the middle reads the user's values, or zeros
            value = self._values[number] = self.blobs[self._graph.names[number]].tensor.to(self.device)
        return value

    def _roots(self, start: str | None, gradients: Mapping[str, NDArray[Any]]) -> list[tuple[Tensor, Tensor]]:
        """Return where a backward pass begins, and with which gradients."""
        if gradients:
            for name, array in gradients.items():
                self._blob(name).diff[...] = array
            numbers = [self._graph.number(name) for name in gradients]
        elif start is not None:
            numbers = list(self._steps[self._layer_names.index(self._layer(start))].tops)
        else:
            return [(top, torch.full_like(top, weight)) for top, weight in self._losses if top.requires_grad]
        roots = []
        for number in numbers:
            value, weight = self._value(number), self._graph.weights.get(number)
            blob = self._blob(self._graph.names[number])
            gradient = blob.gradient() if blob.has_gradient or weight is None else torch.full_like(value, weight)
            if value.requires_grad:
                roots.append((value, gradient.detach().clone()))
        return roots

    def _range(self, start: str | None, end: str | None) -> tuple[int, int]:
        first = self._layer_names.index(self._layer(start)) if start is not None else 0
        last = self._layer_names.index(self._layer(end)) if end is not None else len(self._steps) - 1
        return first, last

    def _layer(self, name: str) -> str:
        if name not in self.layer_dict:
            raise ValueError(f"the net has no layer {name!r}")
        return name

    def _blob(self, name: str) -> Activation:
        if name not in self.blobs:
            raise ValueError(f"the net has no blob {name!r}")
        return self.blobs[name]
