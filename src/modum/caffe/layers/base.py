"""The base of all layers: counts of bottoms and tops, parameter blobs, and the registry of types.

A layer is a `torch.nn.Module` made from the `LayerParameter` of a net file. `setup` runs once, does all checks
and makes the parameters; `forward` only computes. Autograd computes the backward pass; if
Caffe's own differs from the derivative, the layer brings a `torch.autograd.Function`.
"""

from __future__ import annotations

import difflib
import importlib
import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import nn

from modum.caffe.errors import ModelError
from modum.caffe.fillers import fill
from modum.caffe.proto import TEST

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from modum.caffe.proto import FillerParameter, LayerParameter

Shape = tuple[int, ...]
"""The dimensions of a blob, outermost first. () is one number."""
Range = tuple[int, int | None]
"""The minimum and maximum number of bottoms or tops; None: no limit."""

LARGEST_AXES = 32
"""Caffe's limit for the number of axes of a blob."""


class Layer(nn.Module):
    """A layer of a net.

    Args:
        spec: the layer's definition, kept as `spec`, not copied.
        phase: `modum.caffe.proto.TRAIN` or `TEST`.

    Subclasses set the counts of bottoms and tops and implement `reshape` and `forward`, and `make` if they have
    settings to read or parameters to make.

    Attributes:
        blobs: the parameters, in Caffe's order and shapes. A net that shares parameters puts another layer's
            parameter in the list, so `forward` always reads them from there.
    """

    bottom_range: ClassVar[Range] = (1, 1)
    top_range: ClassVar[Range] = (1, 1)
    as_many_tops: ClassVar[bool] = False
    """Whether there must be as many tops as bottoms."""
    automatic_tops: ClassVar[bool] = False
    """Whether tops that the definition does not list are made anyway, without a name, as for losses."""
    is_loss: ClassVar[bool] = False
    """Whether the first top counts in the objective with weight 1 if no loss_weight is given."""
    without_gradient: ClassVar[frozenset[int]] = frozenset()
    """The bottoms that no gradient reaches, such as labels."""
    keeps_state: ClassVar[bool] = False
    """Whether `forward` changes more than its tops: statistics or a hidden state."""

    def __init__(self, spec: LayerParameter, phase: int) -> None:
        super().__init__()
        self.spec = spec
        self.phase = phase
        self.blobs = nn.ParameterList()
        self.train(phase != TEST)

    @property
    def name(self) -> str:
        """The layer's name in the net file."""
        return str(self.spec.name)

    @property
    def top_count(self) -> int:
        """Number of tensors that `forward` returns: the definition's tops, and automatic ones."""
        return max(len(self.spec.top), self.top_range[0] if self.automatic_tops else 0)

    @property
    def loss_weights(self) -> list[float]:
        """For each top, the weight of the sum of its elements in the objective."""
        weights = [float(weight) for weight in self.spec.loss_weight]
        if not weights:
            return [1.0 if self.is_loss and top == 0 else 0.0 for top in range(self.top_count)]
        if len(weights) != self.top_count:
            raise self.error(
                f"has {self.top_count} tops but {len(weights)} loss_weight: give one for each top, or none"
            )
        return weights

    def needs_gradient(self, bottom_index: int) -> bool:
        """Return whether a gradient can flow to this bottom: not to labels, indices and the like."""
        return bottom_index not in self.without_gradient

    def setup(self, bottoms: Sequence[Shape], generator: torch.Generator | None = None) -> list[Shape]:
        """Check the layer against the shapes of its bottoms, and make and fill its parameters.

        Args:
            bottoms: the shape of each bottom.
            generator: fills the parameters; None: torch's default one.

        Returns:
            The shapes of the tops.

        Raises:
            ModelError: the layer's definition is wrong, or does not fit these bottoms.
        """
        self._check_count("bottom", len(bottoms), self.bottom_range)
        self._check_count("top", self.top_count, self.top_range)
        if self.as_many_tops and len(bottoms) != self.top_count:
            raise self.error(f"makes one top of each bottom, but has {len(bottoms)} bottoms and {self.top_count} tops")
        self.make(bottoms, generator)
        return self.reshape(bottoms)

    def make(self, bottoms: Sequence[Shape], generator: torch.Generator | None) -> None:
        """Read the definition and make the parameters. Runs once, before the first `reshape`."""

    @abstractmethod
    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Compute the shapes of the tops. Must be called before `forward` gets bottoms of other shapes.

        Args:
            bottoms: the shape of each bottom.

        Returns:
            The shapes of the tops.

        Raises:
            ModelError: the layer cannot take bottoms of these shapes.
        """

    def place(self) -> dict[str, Any]:
        """Return what the next batch depends on besides the blobs, in plain types: where it is in its data, a state."""
        return {}

    def go_on(self, place: Mapping[str, Any]) -> None:
        """Go on from what `place` has returned, in this process or an earlier one."""

    def error(self, text: str, field: str = "") -> ModelError:
        """Return an error with the layer's name and the place where it, or a field of it, is defined."""
        return ModelError.at(self.spec, text, field)

    def add_blob(self, shape: Shape, filler: FillerParameter | None, generator: torch.Generator | None) -> nn.Parameter:
        """Append a parameter, filled by `filler` (None: zeros), or with the net file's own values for it."""
        index = len(self.blobs)
        value = torch.zeros(shape)
        if index < len(self.spec.blobs):
            stored = self.spec.blobs[index]
            numbers = torch.tensor(stored.data or stored.double_data, dtype=torch.float32)
            if numbers.numel() != value.numel():
                raise self.error(
                    f"blobs[{index}] in the net file has {numbers.numel()} numbers, but the layer's is {shape}"
                )
            value.copy_(numbers.reshape(shape))
        elif filler is not None:
            self.fill(value, filler, generator)
        parameter = nn.Parameter(value)
        self.blobs.append(parameter)
        return parameter

    def fill(self, tensor: Tensor, filler: FillerParameter, generator: torch.Generator | None) -> None:
        """Fill a tensor in place; the `ModelError` for a wrong filler names the layer."""
        try:
            fill(tensor, filler, generator)
        except ModelError as error:
            raise self.error(str(error)) from None

    def axis(self, index: int, bottom: Shape, *, end: bool = False) -> int:
        """Return the axis of a bottom for `index`, counted from 0; negative ones count from the end.

        With `end`, the place after the last axis is allowed too.
        """
        count = len(bottom) + end
        if not -count <= index < count:
            raise self.error(f"axis {index} is out of range for a bottom of shape {bottom}")
        return index % count

    def same_shapes(self, bottoms: Sequence[Shape]) -> None:
        """Check that all bottoms have the shape of the first one."""
        for index, shape in enumerate(bottoms):
            if shape != bottoms[0]:
                raise self.error(
                    f"bottoms must have the same shape, but {self._bottom(0)} is {bottoms[0]} "
                    f"and {self._bottom(index)} is {shape}"
                )

    def _bottom(self, index: int) -> str:
        return f'"{self.spec.bottom[index]}"' if index < len(self.spec.bottom) else f"bottom {index}"

    def _check_count(self, what: str, count: int, limits: Range) -> None:
        low, high = limits
        if count >= low and (high is None or count <= high):
            return
        if low == high:
            wanted = f"exactly {low}"
        elif high is None:
            wanted = f"at least {low}"
        else:
            wanted = f"{low} to {high}"
        names = ", ".join(getattr(self.spec, what)) or "none"
        raise self.error(f"{self.spec.type} takes {wanted} {what}{'' if high == 1 else 's'}, but has {count}: {names}")

    if TYPE_CHECKING:  # nn.Module says Any

        def __call__(self, *bottoms: Tensor) -> tuple[Tensor, ...]: ...


AnyLayer = TypeVar("AnyLayer", bound=Layer)
_types: dict[str, type[Layer]] = {}


def register(*names: str) -> Callable[[type[AnyLayer]], type[AnyLayer]]:
    """Register a layer under the `type` names of net files; a class decorator."""

    def note(layer: type[AnyLayer]) -> type[AnyLayer]:
        for name in names:
            assert name not in _types, f"two layers are called {name}"
            _types[name] = layer
        return layer

    return note


def layer_types() -> dict[str, type[Layer]]:
    """Return all layer types, including data layers, by their names in net files."""
    for module in ("modum.caffe.layers", "modum.caffe.data"):
        importlib.import_module(module)
    return dict(sorted(_types.items()))


def make_layer(spec: LayerParameter, phase: int) -> Layer:
    """Return the layer for a definition, before `setup`.

    Args:
        spec: the definition, as in a net file.
        phase: `TRAIN` or `TEST`.

    Returns:
        The layer.

    Raises:
        ModelError: there is no such layer type.
    """
    found = _types.get(spec.type) or layer_types().get(spec.type)
    if found is not None:
        return found(spec, phase)
    near = difflib.get_close_matches(spec.type, _types, n=3) or difflib.get_close_matches(
        spec.type.lower(), [name.lower() for name in _types], n=3
    )
    names = [name for name in _types if name in near or name.lower() in near]
    hint = f"; did you mean {' or '.join(names)}?" if names else f"; there are {', '.join(sorted(_types))}"
    raise ModelError.at(spec, f'unknown type "{spec.type}"{hint}', "type")


def run(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    """Call `function.apply`, which has no types in PyTorch."""
    return function.apply(*arguments)  # type: ignore[no-untyped-call]


def count(shape: Shape) -> int:
    """Return the number of elements of a blob."""
    return math.prod(shape)
