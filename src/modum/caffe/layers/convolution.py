"""Convolution, Deconvolution and Im2col: what slides a kernel over the spatial axes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from modum.caffe.layers.base import Layer, Shape, count, register

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

MOST_SPATIAL_AXES = 3
"""PyTorch convolves over up to so many axes."""


class Window(Layer):
    """A layer with a `convolution_param`: reads the kernel for any number of spatial axes.

    The axes behind `axis` are spatial, `axis` has the channels, those before count as images.
    """

    channel_axis: int
    kernel: Shape
    stride: Shape
    pad: Shape
    dilation: Shape

    def read_window(self, bottom: Shape) -> None:
        """Reads kernel, stride, pad and dilation for a bottom of this shape."""
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
        """One number for each spatial axis: from ``pair``_h and ``pair``_w, or ``field``, given once or for each."""
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
        """How far the dilated kernel reaches over a spatial axis."""
        return self.dilation[axis] * (self.kernel[axis] - 1) + 1

    def positions(self, sizes: Shape) -> Shape:
        """How many places the kernel has on each spatial axis: rounded down."""
        places = tuple(
            (size + 2 * self.pad[axis] - self.extent(axis)) // self.stride[axis] + 1 for axis, size in enumerate(sizes)
        )
        if any(place < 1 for place in places):
            raise self.error(
                f"kernel {self.kernel} (pad {self.pad}, dilation {self.dilation}) exceeds the input {sizes}"
            )
        return places


class Filters(Window):
    """A window with weights, applied to each bottom alike."""

    bottom_range = (1, None)
    top_range = (1, None)
    as_many_tops = True
    transposed = False

    def make(self, bottoms: Sequence[Shape], generator: torch.Generator | None) -> None:
        param = self.spec.convolution_param
        self.read_window(bottoms[0])
        spatial = len(self.kernel)
        if not 1 <= spatial <= MOST_SPATIAL_AXES:
            raise self.error(
                f"bottom has shape {bottoms[0]}: there must be 1 to {MOST_SPATIAL_AXES} spatial axes behind axis "
                f"{self.channel_axis}"
            )
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
        functions: Sequence[Callable[..., Tensor]] = (F.conv1d, F.conv2d, F.conv3d)
        if self.transposed:
            functions = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
        self.convolve = functions[spatial - 1]

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

    def apply_to(self, bottom: Tensor) -> Tensor:
        """The output for one bottom of shape (N, C, spatial...)."""
        raise NotImplementedError


@register("Convolution")
class Convolution(Filters):
    """Cross-correlation with learned filters: weights (num_output, channels / group, kernel...), then the bias."""

    def apply_to(self, bottom: Tensor) -> Tensor:
        bias = self.blobs[1] if self.with_bias else None
        return self.convolve(bottom, self.blobs[0], bias, self.stride, self.pad, self.dilation, self.group)


@register("Deconvolution")
class Deconvolution(Filters):
    """The transpose of a convolution: weights (channels, num_output / group, kernel...), then the bias."""

    transposed = True

    def apply_to(self, bottom: Tensor) -> Tensor:
        bias = self.blobs[1] if self.with_bias else None
        return self.convolve(bottom, self.blobs[0], bias, self.stride, self.pad, 0, self.group, self.dilation)


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
        windows = F.pad(bottoms[0], [pad for pad in reversed(self.pad) for _ in range(2)])
        for axis in range(spatial):  # the place in the window becomes a further axis at the end
            windows = windows.unfold(first + axis, self.extent(axis), self.stride[axis])[..., :: self.dilation[axis]]
        order = [*range(first), *range(first + spatial, first + 2 * spatial), *range(first, first + spatial)]
        return (windows.permute(order).reshape(self._top),)
