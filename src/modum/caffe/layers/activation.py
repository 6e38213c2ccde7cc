"""Element-wise layers, and Softmax.

At corners of these functions, PyTorch's derivative is the same as Caffe's: 0 for ReLU (the slope, if there is one)
and AbsVal at 0, alpha for ELU at 0, and 1 for Clip at both of its limits.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from modum.caffe.layers.base import Layer, Shape, register
from modum.caffe.proto import TEST, FillerParameter

if TYPE_CHECKING:
    from collections.abc import Sequence


class Elementwise(Layer):
    """A layer with one bottom, and a top of the same shape."""

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [bottoms[0]]


@register("ReLU")
class ReLU(Elementwise):
    """max(x, 0) + negative_slope * min(x, 0)."""

    def make(self, bottoms: Sequence[Shape], generator: torch.Generator | None) -> None:
        self.slope = self.spec.relu_param.negative_slope

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return (F.leaky_relu(bottoms[0], self.slope) if self.slope else torch.relu(bottoms[0]),)


@register("PReLU")
class PReLU(Elementwise):
    """max(x, 0) + slope * min(x, 0) with a learned slope for each channel, or one for all (He et al. 2015)."""

    def make(self, bottoms: Sequence[Shape], generator: torch.Generator | None) -> None:
        if len(bottoms[0]) < 2:
            raise self.error(f"bottom must have at least 2 axes, but has shape {bottoms[0]}")
        param = self.spec.prelu_param
        filler = param.filler if param.HasField("filler") else FillerParameter(type="constant", value=0.25)
        self.add_blob(() if param.channel_shared else (bottoms[0][1],), filler, generator)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if not self.spec.prelu_param.channel_shared and bottoms[0][1:2] != tuple(self.blobs[0].shape):
            raise self.error(f"bottom has shape {bottoms[0]}, but there are {len(self.blobs[0])} slopes")
        return [bottoms[0]]

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return (F.prelu(bottoms[0], self.blobs[0]),)


@register("ELU")
class ELU(Elementwise):
    """x above 0, alpha (exp(x) - 1) below (Clevert et al. 2015)."""

    def make(self, bottoms: Sequence[Shape], generator: torch.Generator | None) -> None:
        self.alpha = self.spec.elu_param.alpha

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return (F.elu(bottoms[0], self.alpha),)


@register("Swish")
class Swish(Elementwise):
    """x sigmoid(beta x) (Ramachandran et al. 2017)."""

    def make(self, bottoms: Sequence[Shape], generator: torch.Generator | None) -> None:
        self.beta = self.spec.swish_param.beta

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return (F.silu(bottoms[0]) if self.beta == 1 else bottoms[0] * torch.sigmoid(self.beta * bottoms[0]),)


@register("Sigmoid")
class Sigmoid(Elementwise):
    """1 / (1 + exp(-x))."""

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return (torch.sigmoid(bottoms[0]),)


@register("TanH")
class TanH(Elementwise):
    """The hyperbolic tangent."""

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return (torch.tanh(bottoms[0]),)


@register("AbsVal")
class AbsVal(Elementwise):
    """|x|."""

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return (bottoms[0].abs(),)


@register("BNLL")
class BNLL(Elementwise):
    """log(1 + exp(x))."""

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return (F.softplus(bottoms[0], threshold=50),)


@register("Power")
class Power(Elementwise):
    """(shift + scale x) ^ power."""

    def make(self, bottoms: Sequence[Shape], generator: torch.Generator | None) -> None:
        param = self.spec.power_param
        self.power, self.scale, self.shift = param.power, param.scale, param.shift

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        inner = affine(bottoms[0], self.scale, self.shift)
        return (inner if self.power == 1 else inner.pow(self.power),)


@register("Exp")
class Exp(Elementwise):
    """base ^ (shift + scale x); base -1 stands for e."""

    def make(self, bottoms: Sequence[Shape], generator: torch.Generator | None) -> None:
        param = self.spec.exp_param
        if param.base != -1 and param.base <= 0:
            raise self.error(f"base ({param.base:g}) must be above 0, or -1 for e")
        log_base = 1.0 if param.base == -1 else math.log(param.base)
        self.inner_scale = log_base * param.scale
        self.outer_scale = math.exp(log_base * param.shift)

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return (affine(torch.exp(affine(bottoms[0], self.inner_scale, 0.0)), self.outer_scale, 0.0),)


@register("Log")
class Log(Elementwise):
    """log(shift + scale x) to a base; base -1 stands for e."""

    def make(self, bottoms: Sequence[Shape], generator: torch.Generator | None) -> None:
        param = self.spec.log_param
        if param.base != -1 and (param.base <= 0 or param.base == 1):
            raise self.error(f"base ({param.base:g}) must be above 0 and not 1, or -1 for e")
        self.outer_scale = 1.0 if param.base == -1 else 1 / math.log(param.base)
        self.scale, self.shift = param.scale, param.shift

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return (affine(torch.log(affine(bottoms[0], self.scale, self.shift)), self.outer_scale, 0.0),)


@register("Threshold")
class Threshold(Elementwise):
    """1 where x exceeds the threshold, else 0. No gradient."""

    without_gradient = frozenset({0})

    def make(self, bottoms: Sequence[Shape], generator: torch.Generator | None) -> None:
        self.threshold = self.spec.threshold_param.threshold

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return ((bottoms[0] > self.threshold).to(bottoms[0].dtype),)


@register("Clip")
class Clip(Elementwise):
    """x, limited to [min, max]."""

    def make(self, bottoms: Sequence[Shape], generator: torch.Generator | None) -> None:
        param = self.spec.clip_param
        if not self.spec.HasField("clip_param"):
            raise self.error("clip_param with min and max is missing")
        self.min, self.max = param.min, param.max

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return (bottoms[0].clamp(self.min, self.max),)


@register("Dropout")
class Dropout(Elementwise):
    """In TRAIN, zeros a fraction dropout_ratio at random and divides the rest by 1 - dropout_ratio; in TEST, nothing.

    Draws from torch's default generator of the device.
    """

    def make(self, bottoms: Sequence[Shape], generator: torch.Generator | None) -> None:
        self.ratio = self.spec.dropout_param.dropout_ratio
        if not 0 <= self.ratio < 1:
            raise self.error(f"dropout_ratio ({self.ratio:g}) must be at least 0 and less than 1")

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return (bottoms[0] if self.phase == TEST else F.dropout(bottoms[0], self.ratio),)


@register("Softmax")
class Softmax(Layer):
    """exp(x) divided by the sum of exp(x) along an axis."""

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self.along = self.axis(self.spec.softmax_param.axis, bottoms[0])
        return [bottoms[0]]

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return (torch.softmax(bottoms[0], self.along),)


def affine(x: Tensor, scale: float, shift: float) -> Tensor:
    """Return `scale * x + shift`, skipping steps without effect."""
    if scale != 1:
        x = x * scale
    return x + shift if shift else x
