"""Pooling and spatial pyramid pooling, with Caffe's rounding and edges.

On each axis there are `ceil((size + 2 pad - kernel) / stride) + 1` windows; with padding the last one is dropped if it
would begin in the padding after the image. Windows are cut at the edge of the image (MAX), or at the edge of the
padding, which is what an average is divided by. PyTorch has the same rules under `ceil_mode` while a pad is at most
half the kernel and no window lies outside; in other cases the image is padded to fit the windows exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from modum.caffe.layers.base import Layer, Shape, count, register
from modum.caffe.proto import TEST, PoolingParameter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Pair = tuple[int, int]

LOWEST = -torch.finfo(torch.float32).max
"""The maximum of an empty window."""
SMALLEST = torch.finfo(torch.float32).tiny
"""Keeps the stochastic mean of zeros from dividing by zero."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Windows:
    """The places of the windows for one image size; all pairs are (height, width)."""

    image: Pair
    kernel: Pair
    stride: Pair
    pad: Pair
    places: Pair

    @property
    def plain(self) -> bool:
        """Whether PyTorch's pooling with ceil_mode has exactly these windows."""
        for size, kernel, stride, pad, places in zip(
            self.image, self.kernel, self.stride, self.pad, self.places, strict=True
        ):
            there = -(-max(size + 2 * pad - kernel, 0) // stride) + 1
            there -= (there - 1) * stride >= size + pad
            if there != places or 2 * pad > kernel:
                return False
        return True

    @property
    def whole(self) -> bool:
        """Whether the only window is the image."""
        return self.places == (1, 1) and self.pad == (0, 0) and self.kernel == self.image

    def padded(self, image: Tensor, value: float) -> Tensor:
        """Return the image padded (or cropped at the end) so that unpadded windows fill it exactly."""
        ends = [
            (places - 1) * stride + kernel - size - pad
            for size, kernel, stride, pad, places in zip(
                self.image, self.kernel, self.stride, self.pad, self.places, strict=True
            )
        ]
        return F.pad(image, (self.pad[1], ends[1], self.pad[0], ends[0]), value=value)

    def areas(self) -> Tensor:
        """Divisors of the average over each window: int64 (places...)."""
        sides = []
        for axis in range(2):
            starts = torch.arange(self.places[axis]) * self.stride[axis] - self.pad[axis]
            sides.append((starts + self.kernel[axis]).clamp(max=self.image[axis] + self.pad[axis]) - starts)
        return sides[0][:, None] * sides[1]


def average(windows: Windows) -> Callable[[Tensor], Tensor]:
    """Return a function that averages over windows."""
    if windows.whole:
        return lambda image: image.mean((2, 3), keepdim=True)
    kernel, stride, pad = windows.kernel, windows.stride, windows.pad
    if windows.plain:
        return lambda image: F.avg_pool2d(image, kernel, stride, pad, ceil_mode=True)
    areas = windows.areas()

    def padded(image: Tensor) -> Tensor:
        sums = F.avg_pool2d(windows.padded(image, 0.0), kernel, stride, divisor_override=1)
        return sums / areas.to(sums)

    return padded


def maximum(windows: Windows) -> Callable[[Tensor], Tensor]:
    """Return a function that takes the maximum of windows.

    Of several equal elements, the first in a window gets the gradient.
    """
    kernel, stride, pad = windows.kernel, windows.stride, windows.pad
    if windows.plain:
        return lambda image: F.max_pool2d(image, kernel, stride, pad, ceil_mode=True)
    return lambda image: F.max_pool2d(windows.padded(image, LOWEST), kernel, stride)


def maximum_with_places(windows: Windows) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Return a function for the maxima and their places in the image: row * width + column, -1 for a window outside."""
    kernel, stride, pad = windows.kernel, windows.stride, windows.pad
    if windows.plain:

        def plain(image: Tensor) -> tuple[Tensor, Tensor]:
            values, places = F.max_pool2d_with_indices(image, kernel, stride, pad, ceil_mode=True)
            return values, places.to(image.dtype)

        return plain

    def padded(image: Tensor) -> tuple[Tensor, Tensor]:
        larger = windows.padded(image, LOWEST)
        values, places = F.max_pool2d_with_indices(larger, kernel, stride)
        rows, columns = places // larger.shape[3] - pad[0], places % larger.shape[3] - pad[1]
        height, width = windows.image
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        return values, torch.where(inside, rows * width + columns, -1).to(image.dtype)

    return padded


def stochastic(windows: Windows, phase: int) -> Callable[[Tensor], Tensor]:
    """Zeiler and Fergus 2013: an element drawn in proportion to its value; in TEST the mean with those weights."""
    kernel, stride, places = windows.kernel, windows.stride, windows.places

    def elements(image: Tensor) -> Tensor:
        parts = F.unfold(windows.padded(image, 0.0), kernel, stride=stride)
        return parts.reshape(*image.shape[:2], count(kernel), *places)

    def expected(image: Tensor) -> Tensor:
        parts = elements(image)
        return parts.square().sum(2) / (parts.sum(2) + SMALLEST)

    def drawn(image: Tensor) -> Tensor:
        parts = elements(image)
        with torch.no_grad():
            sums = parts.cumsum(2)
            threshold = torch.rand_like(sums[:, :, -1:]) * sums[:, :, -1:]
            chosen = (sums < threshold).sum(2, keepdim=True).clamp(max=parts.shape[2] - 1)
        return parts.gather(2, chosen).squeeze(2)

    return expected if phase == TEST else drawn


@register("Pooling")
class Pooling(Layer):
    """The maximum, average or a random element of windows; a second top of MAX has the places of the maxima."""

    top_range = (1, 2)

    def make(self, bottoms: Sequence[Shape], generator: torch.Generator | None) -> None:
        param = self.spec.pooling_param
        if self.top_count == 2 and param.pool != PoolingParameter.MAX:
            raise self.error("only MAX pooling has a second top (the places of the maxima)")
        self.global_pooling = bool(param.global_pooling)
        given = [field for field in ("kernel_size", "kernel_h", "kernel_w") if param.HasField(field)]
        if self.global_pooling:
            if given:
                raise self.error(f"global_pooling takes the kernel from the bottom: remove {' and '.join(given)}")
        elif given not in (["kernel_size"], ["kernel_h", "kernel_w"]):
            raise self.error("give either kernel_size, or both kernel_h and kernel_w")
        self.kernel = self._pair("kernel", "kernel_size")
        self.stride = self._pair("stride", "stride")
        self.pad = self._pair("pad", "pad")
        if 0 in self.stride or (0 in self.kernel and not self.global_pooling):
            raise self.error(f"kernel {self.kernel} and stride {self.stride} must not be 0")
        if self.global_pooling and (self.pad != (0, 0) or self.stride != (1, 1)):
            raise self.error("global_pooling wants pad 0 and stride 1")
        if self.pad != (0, 0) and param.pool == PoolingParameter.STOCHASTIC:
            raise self.error("stochastic pooling has no padding")

    def _pair(self, pair: str, field: str) -> Pair:
        param = self.spec.pooling_param
        if not param.HasField(f"{pair}_h") and not param.HasField(f"{pair}_w"):
            return (getattr(param, field),) * 2
        if param.HasField(field) or not (param.HasField(f"{pair}_h") and param.HasField(f"{pair}_w")):
            raise self.error(f"give either {field}, or both {pair}_h and {pair}_w")
        return (getattr(param, f"{pair}_h"), getattr(param, f"{pair}_w"))

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        (bottom,) = bottoms
        if len(bottom) != 4:
            raise self.error(f"bottom must have 4 axes (images, channels, height, width), but has shape {bottom}")
        param = self.spec.pooling_param
        image: Pair = (bottom[2], bottom[3])
        kernel = image if self.global_pooling else self.kernel
        windows = place_windows(self, image, kernel, self.stride, self.pad, floor=param.round_mode == param.FLOOR)
        self.pool = choose(param.pool, windows, self.phase)
        self.pool_with_places = maximum_with_places(windows)
        return [(*bottom[:2], *windows.places)] * self.top_count

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        if self.top_count == 2:
            return self.pool_with_places(bottoms[0])
        return (self.pool(bottoms[0]),)


@register("SPP")
class SPP(Layer):
    """Spatial pyramid pooling (He et al. 2014): level l pools to about 2^l x 2^l bins, all levels joined as a vector.

    A pyramid of one level keeps its four axes.
    """

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        (bottom,) = bottoms
        if len(bottom) != 4 or 0 in bottom[2:]:
            raise self.error(f"bottom must have 4 axes (images, channels, height, width), but has shape {bottom}")
        param = self.spec.spp_param
        if param.pyramid_height < 1:
            raise self.error("pyramid_height must be at least 1")
        image: Pair = (bottom[2], bottom[3])
        self.levels: list[Callable[[Tensor], Tensor]] = []
        features = 0
        for level in range(param.pyramid_height):
            bins = 2**level
            kernel: Pair = (-(-image[0] // bins), -(-image[1] // bins))
            pad: Pair = ((kernel[0] * bins - image[0] + 1) // 2, (kernel[1] * bins - image[1] + 1) // 2)
            windows = place_windows(self, image, kernel, kernel, pad, floor=False)
            self.levels.append(choose(param.pool, windows, self.phase))
            features += bottom[1] * count(windows.places)
        return [(*bottom[:2], 1, 1)] if len(self.levels) == 1 else [(bottom[0], features)]

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        if len(self.levels) == 1:
            return (self.levels[0](bottoms[0]),)
        return (torch.cat([pool(bottoms[0]).flatten(1) for pool in self.levels], 1),)


def place_windows(layer: Layer, image: Pair, kernel: Pair, stride: Pair, pad: Pair, *, floor: bool) -> Windows:
    """Return the windows over an image.

    Args:
        layer: the layer to name in errors.
        image: size of the image.
        kernel: size of the windows.
        stride: distance between windows.
        pad: padding at each end.
        floor: whether to round the number of windows down instead of up.

    Returns:
        The windows.

    Raises:
        ModelError: the padding is not less than the kernel, or the kernel exceeds the image.
    """
    places = []
    for size, wide, step, around in zip(image, kernel, stride, pad, strict=True):
        if around >= wide:
            raise layer.error(f"pad {pad} must be less than the kernel {kernel}")
        room = size + 2 * around - wide
        number = (math.floor(room / step) if floor else math.ceil(room / step)) + 1
        if pad != (0, 0) and (number - 1) * step >= size + around:
            number -= 1
        if number < 1:
            raise layer.error(f"kernel {kernel} (pad {pad}) exceeds the input {image}")
        places.append(number)
    return Windows(image=image, kernel=kernel, stride=stride, pad=pad, places=(places[0], places[1]))


def choose(method: int, windows: Windows, phase: int) -> Callable[[Tensor], Tensor]:
    """Return the function for one of Caffe's pooling methods, which SPP numbers in the same way."""
    if method == PoolingParameter.MAX:
        return maximum(windows)
    if method == PoolingParameter.AVE:
        return average(windows)
    return stochastic(windows, phase)
