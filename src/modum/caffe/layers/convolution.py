"""Convolution, Deconvolution and Im2col, which slide a kernel over the spatial axes."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from modum.caffe.layers.base import Layer, Shape, count, register

if TYPE_CHECKING:
    from collections.abc import Sequence

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
"""PyTorch's own functions, by the number of spatial axes."""


class Window(Layer):
    """A layer with a `convolution_param`, for a kernel of any number of spatial axes.

    The axes after `axis` are spatial, `axis` has the channels, those before it count as images.
    """

    channel_axis: int
    kernel: Shape
    stride: Shape
    pad: Shape
    dilation: Shape

    def read_window(self, bottom: Shape) -> None:
        """Read kernel, stride, pad and dilation for a bottom of this shape."""
        param = self.spec.convolution_param
        self.channel_axis = self.axis(param.axis, bottom)
        spatial = len(bottom) - self.channel_axis - 1
        self.kernel = self._sizes("kernel", "kernel_size", spatial, None)
        self.stride = self._sizes("stride", "stride", spatial, 1)
        self.pad = self._sizes("pad", "pad", spatial, 0)
        self.dilation = self._sizes("", "dilation", spatial, 1)
        for field, sizes in ("kernel_size", self.kernel), ("stride", self.stride), ("dilation", self.dilation):
            if 0 in sizes:
                raise self.error(f"{field} {sizes} must not be 0")

    def _sizes(self, pair: str, field: str, spatial: int, default: int | None) -> Shape:
        """Return one number per spatial axis, from `pair`_h and `pair`_w, or from `field`, given once or for each."""
        param = self.spec.convolution_param
        values = tuple(getattr(param, field))
        if pair and (param.HasField(f"{pair}_h") or param.HasField(f"{pair}_w")):
            if spatial != 2:
                raise self.error(f"{pair}_h and {pair}_w are for 2 spatial axes, but there are {spatial}")
            if values:
                raise self.error(f"give either {field}, or {pair}_h and {pair}_w")
            return (getattr(param, f"{pair}_h"), getattr(param, f"{pair}_w"))
        if not values and default is not None:
            return (default,) * spatial
        if len(values) not in (1, spatial):
            raise self.error(f"{field} is given {len(values)} times: give it once, or {spatial} times")
        return values * spatial if len(values) == 1 else values

    def extent(self, axis: int) -> int:
        """Return the length of the dilated kernel on a spatial axis."""
        return self.dilation[axis] * (self.kernel[axis] - 1) + 1

    def positions(self, sizes: Shape) -> Shape:
        """Return the number of kernel positions on each spatial axis, rounded down."""
        places = tuple(
            (size + 2 * self.pad[axis] - self.extent(axis)) // self.stride[axis] + 1 for axis, size in enumerate(sizes)
        )
        if any(place < 1 for place in places):
            raise self.error(
                f"kernel {self.kernel} (pad {self.pad}, dilation {self.dilation}) exceeds the input {sizes}"
            )
        return places


class Filters(Window):
    """A window with weights, applied to each bottom in the same way."""

    bottom_range = (1, None)
    top_range = (1, None)
    as_many_tops = True
    transposed = False

    def make(self, bottoms: Sequence[Shape], generator: torch.Generator | None) -> None:
        param = self.spec.convolution_param
        self.read_window(bottoms[0])
        channels, outputs, group = bottoms[0][self.channel_axis], param.num_output, param.group
        if outputs < 1:
            raise self.error("num_output must be at least 1")
        if group < 1 or channels % group or outputs % group:
            raise self.error(f"group {group} must divide the input's channels ({channels}) and num_output ({outputs})")
        self.channels, self.outputs, self.group = channels, outputs, group
        first, second = (channels, outputs) if self.transposed else (outputs, channels)
        self.add_blob((first, second // group, *self.kernel), param.weight_filler, generator)
        self.with_bias = bool(param.bias_term)
        if self.with_bias:
            self.add_blob((outputs,), param.bias_filler, generator)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self.same_shapes(bottoms)
        images, (channels, *sizes) = bottoms[0][: self.channel_axis], bottoms[0][self.channel_axis :]
        if channels != self.channels or len(sizes) != len(self.kernel):
            raise self.error(
                f"bottom has shape {bottoms[0]}, but axis {self.channel_axis} must have {self.channels} channels, "
                f"with {len(self.kernel)} axes behind it"
            )
        self.images = images
        if self.transposed:
            places = tuple(
                self.stride[axis] * (size - 1) + self.extent(axis) - 2 * self.pad[axis]
                for axis, size in enumerate(sizes)
            )
            if any(place < 1 for place in places):
                raise self.error(f"pad {self.pad} leaves nothing of the output for the input {tuple(sizes)}")
        else:
            places = self.positions(tuple(sizes))
        return [(*images, self.outputs, *places)] * len(bottoms)

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        if self.channel_axis == 1:
            return tuple(self.apply_to(bottom) for bottom in bottoms)
        flat = (bottom.reshape(-1, *bottom.shape[self.channel_axis :]) for bottom in bottoms)
        tops = (self.apply_to(bottom) for bottom in flat)
        return tuple(top.reshape(*self.images, *top.shape[1:]) for top in tops)

    @abstractmethod
    def apply_to(self, bottom: Tensor) -> Tensor:
        """Return the output for one bottom of shape (N, C, spatial...)."""

    def correlate(self, padded: Tensor, weight: Tensor, stride: Shape) -> Tensor:
        """Return the unpadded convolution of (N, C, spatial...), over any number of axes, plus the bias."""
        seen = windows(padded, 2, self.kernel, stride, self.dilation)
        places = seen.shape[2 : 2 + len(self.kernel)]
        x = seen.reshape(len(seen), self.group, -1, count(places), count(self.kernel))
        w = weight.reshape(self.group, self.outputs // self.group, -1, count(self.kernel))
        top = torch.einsum("ngcpk,gock->ngop", x, w).reshape(len(seen), self.outputs, *places)
        return top + self.blobs[1].reshape(-1, *(1 for _ in places)) if self.with_bias else top


@register("Convolution")
class Convolution(Filters):
    """Cross-correlation with learned filters. Blobs: weights (num_output, channels / group, kernel...), then bias."""

    def apply_to(self, bottom: Tensor) -> Tensor:
        if (convolve := CONVOLUTIONS.get(len(self.kernel))) is None:
            return self.correlate(padded(bottom, self.pad), self.blobs[0], self.stride)
        bias = self.blobs[1] if self.with_bias else None
        return convolve(bottom, self.blobs[0], bias, self.stride, self.pad, self.dilation, self.group)


@register("Deconvolution")
class Deconvolution(Filters):
    """The transpose of a convolution. Blobs: weights (channels, num_output / group, kernel...), then bias."""

    transposed = True

    def apply_to(self, bottom: Tensor) -> Tensor:
        if (convolve := TRANSPOSED.get(len(self.kernel))) is None:
            return self._correlate_stretched(bottom)
        bias = self.blobs[1] if self.with_bias else None
        return convolve(bottom, self.blobs[0], bias, self.stride, self.pad, 0, self.group, self.dilation)

    def _correlate_stretched(self, bottom: Tensor) -> Tensor:
        """Return the same over any number of axes, with zeros between the inputs and the kernel reversed."""
        sizes = [step * (size - 1) + 1 for step, size in zip(self.stride, bottom.shape[2:], strict=True)]
        stretched = bottom.new_zeros(*bottom.shape[:2], *sizes)
        inputs = (slice(None), slice(None), *(slice(None, None, step) for step in self.stride))
        stretched[inputs] = bottom
        edges = tuple(self.extent(axis) - 1 - pad for axis, pad in enumerate(self.pad))
        ahead = self.blobs[0].reshape(self.group, -1, self.outputs // self.group, *self.kernel).transpose(1, 2)
        weight = ahead.flip([*range(3, ahead.dim())])
        return self.correlate(padded(stretched, edges), weight, (1,) * len(self.kernel))


@register("Im2col")
class Im2col(Window):
    """The windows that a convolution would see, as channels: (..., C * kernel, positions...), any number of axes."""

    def make(self, bottoms: Sequence[Shape], generator: torch.Generator | None) -> None:
        self.read_window(bottoms[0])

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        (bottom,) = bottoms
        at = self.channel_axis
        if len(bottom) != at + 1 + len(self.kernel):
            raise self.error(f"bottom has shape {bottom}, but {len(self.kernel)} axes are wanted behind axis {at}")
        top = (*bottom[:at], bottom[at] * count(self.kernel), *self.positions(bottom[at + 1 :]))
        self._top = top
        return [top]

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        spatial, first = len(self.kernel), self.channel_axis + 1
        seen = windows(padded(bottoms[0], self.pad), first, self.kernel, self.stride, self.dilation)
        order = [*range(first), *range(first + spatial, first + 2 * spatial), *range(first, first + spatial)]
        return (seen.permute(order).reshape(self._top),)


def padded(x: Tensor, pad: Shape) -> Tensor:
    """Return `x` with `pad` zeros at both ends of its last axes; a negative number crops them."""
    return F.pad(x, [one for pad in reversed(pad) for one in (pad, pad)])


def windows(x: Tensor, first: int, kernel: Shape, stride: Shape, dilation: Shape) -> Tensor:
    """Return a view of all kernel positions on the axes from `first` on, with the kernel's axes at the end."""
    for axis, (size, step, apart) in enumerate(zip(kernel, stride, dilation, strict=True)):
        x = x.unfold(first + axis, apart * (size - 1) + 1, step)[..., ::apart]
    return x
