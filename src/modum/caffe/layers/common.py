"""Layers with weights other than convolutions, arithmetic between blobs, and reductions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from modum.caffe.layers.base import Layer, Shape, count, register
from modum.caffe.proto import EltwiseParameter, FillerParameter, ReductionParameter

if TYPE_CHECKING:
    from collections.abc import Sequence


@register("InnerProduct")
class InnerProduct(Layer):
    """x W^T + b over all axes from `axis` on: weights (num_output, K), or (K, num_output) with `transpose`."""

    def make(self, bottoms: Sequence[Shape], generator: torch.Generator | None) -> None:
        param = self.spec.inner_product_param
        if param.num_output < 1:
            raise self.error("num_output must be at least 1")
        self.first = self.axis(param.axis, bottoms[0])
        self.outputs, self.inputs = param.num_output, count(bottoms[0][self.first :])
        self.transposed = bool(param.transpose)
        shape = (self.inputs, self.outputs) if self.transposed else (self.outputs, self.inputs)
        self.add_blob(shape, param.weight_filler, generator)
        self.with_bias = bool(param.bias_term)
        if self.with_bias:
            self.add_blob((self.outputs,), param.bias_filler, generator)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        (bottom,) = bottoms
        if count(bottom[self.first :]) != self.inputs:
            raise self.error(
                f"bottom has shape {bottom}: {count(bottom[self.first :])} numbers from axis {self.first} on, "
                f"but the weights are for {self.inputs}"
            )
        return [(*bottom[: self.first], self.outputs)]

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        weight = self.blobs[0].t() if self.transposed else self.blobs[0]
        return (F.linear(bottoms[0].flatten(self.first), weight, self.blobs[1] if self.with_bias else None),)


@register("Embed")
class Embed(Layer):
    """Rows of a table (input_dim, num_output), selected by the bottom's integers, plus the bias."""

    without_gradient = frozenset({0})

    def make(self, bottoms: Sequence[Shape], generator: torch.Generator | None) -> None:
        param = self.spec.embed_param
        if param.num_output < 1 or param.input_dim < 1:
            raise self.error(f"num_output ({param.num_output}) and input_dim ({param.input_dim}) must be at least 1")
        self.add_blob((param.input_dim, param.num_output), param.weight_filler, generator)
        self.with_bias = bool(param.bias_term)
        if self.with_bias:
            self.add_blob((param.num_output,), param.bias_filler, generator)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [(*bottoms[0], self.spec.embed_param.num_output)]

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        top = F.embedding(bottoms[0].long(), self.blobs[0])
        return (top + self.blobs[1] if self.with_bias else top,)


class Broadcast(Layer):
    """A layer that broadcasts an operand over bottom 0, from `axis` on: a parameter of `num_axes` axes, or bottom 1."""

    bottom_range = (1, 2)

    def add_operand(
        self,
        bottoms: Sequence[Shape],
        axis: int,
        num_axes: int,
        filler: FillerParameter,
        generator: torch.Generator | None,
    ) -> None:
        """Add the operand as a parameter, if there is no bottom for it."""
        first = self.axis(axis, bottoms[0], end=num_axes == 0)
        if num_axes < -1 or first + num_axes > len(bottoms[0]):
            raise self.error(
                f"num_axes {num_axes} from axis {first} on is out of range for a bottom of shape {bottoms[0]}"
            )
        end = len(bottoms[0]) if num_axes == -1 else first + num_axes
        self.add_blob(bottoms[0][first:end], filler, generator)

    def operand_view(self, bottom: Shape, operand: Shape, axis: int) -> Shape:
        """Return the shape `operand`, with axes of size 1 appended to broadcast over `bottom` from `axis` on."""
        if not operand:
            return ()
        first = self.axis(axis, bottom)
        if bottom[first : first + len(operand)] != operand:
            raise self.error(f"the second operand's shape {operand} is not that of {bottom} from axis {first} on")
        return (*operand, *(1,) * (len(bottom) - first - len(operand)))


@register("Bias")
class Bias(Broadcast):
    """Adds a parameter, or bottom 1."""

    def make(self, bottoms: Sequence[Shape], generator: torch.Generator | None) -> None:
        param = self.spec.bias_param
        if len(bottoms) == 1:
            self.add_operand(bottoms, param.axis, param.num_axes, param.filler, generator)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        operand = bottoms[1] if len(bottoms) == 2 else tuple(self.blobs[0].shape)
        self.view = self.operand_view(bottoms[0], operand, self.spec.bias_param.axis)
        return [bottoms[0]]

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        operand = bottoms[1] if len(bottoms) == 2 else self.blobs[0]
        return (bottoms[0] + operand.reshape(self.view),)


@register("Scale")
class Scale(Broadcast):
    """Multiplies by a parameter, or by bottom 1; with bias_term, adds another parameter of the same shape."""

    def make(self, bottoms: Sequence[Shape], generator: torch.Generator | None) -> None:
        param = self.spec.scale_param
        num_axes = param.num_axes
        if len(bottoms) == 1:
            filler = param.filler if param.HasField("filler") else FillerParameter(type="constant", value=1.0)
            self.add_operand(bottoms, param.axis, num_axes, filler, generator)
        else:
            num_axes = len(bottoms[1])
        self.with_bias = bool(param.bias_term)
        if self.with_bias:
            self.add_operand(bottoms, param.axis, num_axes, param.bias_filler, generator)
        self.two_bottoms = len(bottoms) == 2
        self.absorbed = False
        """Whether the BatchNorm layer before it does this layer's work: see `BatchNorm.absorb`."""

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        operand = bottoms[1] if self.two_bottoms else tuple(self.blobs[0].shape)
        self.view = self.operand_view(bottoms[0], operand, self.spec.scale_param.axis)
        self.axes = len(bottoms[0])
        return [bottoms[0]]

    @property
    def is_per_channel(self) -> bool:
        """Whether there is one learned factor for each index of axis 1."""
        first = self.spec.scale_param.axis % self.axes
        return not self.two_bottoms and first == 1 and self.blobs[0].dim() == 1

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        if self.absorbed:
            return bottoms
        if self.two_bottoms:
            top = bottoms[0] * bottoms[1].reshape(self.view)
            return (top + self.blobs[0].reshape(self.view) if self.with_bias else top,)
        return (self.scale_and_shift(bottoms[0]),)

    def scale_and_shift(self, x: Tensor) -> Tensor:
        """Return the top for one bottom."""
        scale = self.blobs[0].reshape(self.view)
        return torch.addcmul(self.blobs[1].reshape(self.view), x, scale) if self.with_bias else x * scale


@register("Eltwise")
class Eltwise(Layer):
    """Product, sum with coefficients, or maximum of bottoms.

    For equal maxima the second bottom gets the gradient rather than the first, later ones only if they are greater.
    """

    bottom_range = (2, None)

    def make(self, bottoms: Sequence[Shape], generator: torch.Generator | None) -> None:
        param = self.spec.eltwise_param
        self.operation = param.operation
        self.coefficients = list(param.coeff) or [1.0] * len(bottoms)
        if param.coeff and self.operation == EltwiseParameter.PROD:
            raise self.error("coeff is not for operation PROD")
        if len(self.coefficients) != len(bottoms):
            raise self.error(f"{len(bottoms)} bottoms want as many coeff, but there are {len(self.coefficients)}")

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self.same_shapes(bottoms)
        return [bottoms[0]]

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        top, *others = bottoms
        if self.operation == EltwiseParameter.SUM:
            first, *coefficients = self.coefficients
            top = top if first == 1 else top * first
            for other, coefficient in zip(others, coefficients, strict=True):
                top = torch.add(top, other, alpha=coefficient)
        elif self.operation == EltwiseParameter.PROD:
            for other in others:
                top = top * other
        else:
            top = torch.where(top > others[0], top, others[0])
            for other in others[1:]:
                top = torch.where(other > top, other, top)
        return (top,)


@register("Reduction")
class Reduction(Layer):
    """Sum, sum of magnitudes, sum of squares or mean over all axes from `axis` on, times `coeff`."""

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param = self.spec.reduction_param
        self.first = self.axis(param.axis, bottoms[0], end=not bottoms[0])
        self.operation, self.coefficient = param.operation, param.coeff
        return [bottoms[0][: self.first]]

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        x = bottoms[0].reshape(*bottoms[0].shape[: self.first], -1)
        if self.operation == ReductionParameter.MEAN:
            top = x.mean(-1)
        elif self.operation == ReductionParameter.ASUM:
            top = x.abs().sum(-1)
        elif self.operation == ReductionParameter.SUMSQ:
            top = x.square().sum(-1)
        else:
            top = x.sum(-1)
        return (top if self.coefficient == 1 else top * self.coefficient,)


@register("ArgMax")
class ArgMax(Layer):
    """The places of the top_k greatest values, greatest first; of equal ones, the last counts as the greater.

    Without an axis over all but axis 0: (N, 1, top_k), or with out_max_val (N, 2, top_k): places, then values; more
    axes of size 1 behind if the bottom has more than three. With an axis: places, or with out_max_val values, along it.
    """

    without_gradient = frozenset({0})

    def make(self, bottoms: Sequence[Shape], generator: torch.Generator | None) -> None:
        param = self.spec.argmax_param
        self.top_k, self.values = param.top_k, bool(param.out_max_val)
        self.along = self.axis(param.axis, bottoms[0]) if param.HasField("axis") else None

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        (bottom,) = bottoms
        choices = count(bottom[1:]) if self.along is None else bottom[self.along]
        if not 1 <= self.top_k <= choices:
            raise self.error(
                f"top_k ({self.top_k}) must be between 1 and {choices}, the number of values to choose from"
            )
        if self.along is None:
            self.top: Shape = (bottom[0], 2 if self.values else 1, self.top_k, *(1,) * (len(bottom) - 3))
        else:
            self.top = (*bottom[: self.along], self.top_k, *bottom[self.along + 1 :])
        return [self.top]

    @torch.no_grad()
    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        x = bottoms[0].flatten(1) if self.along is None else bottoms[0]
        along = 1 if self.along is None else self.along
        values, places = x.flip(along).sort(dim=along, descending=True, stable=True)
        values = values.narrow(along, 0, self.top_k)
        places = (x.shape[along] - 1 - places.narrow(along, 0, self.top_k)).to(x.dtype)
        if self.along is not None:
            return (values if self.values else places,)
        both = torch.stack([places, values], 1) if self.values else places
        return (both.reshape(self.top),)


@register("Parameter")
class Parameter(Layer):
    """A top that is a parameter of its own: zeros, unless weights are loaded or shared."""

    bottom_range = (0, 0)

    def make(self, bottoms: Sequence[Shape], generator: torch.Generator | None) -> None:
        self.add_blob(tuple(self.spec.parameter_param.shape.dim), None, generator)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [tuple(self.blobs[0].shape)]

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return (self.blobs[0],)
