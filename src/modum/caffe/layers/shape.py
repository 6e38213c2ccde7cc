"""Layers that only move, copy or drop values."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from modum.caffe.layers.base import LARGEST_AXES, Layer, Shape, count, register

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modum.caffe.proto import Message


def chosen_axis(layer: Layer, param: Message, old: str, bottom: Shape) -> int:
    """Return `axis`, or the older field `old`, which cannot be negative."""
    if not param.HasField(old):
        return layer.axis(param.axis, bottom)
    if param.HasField("axis"):
        raise layer.error(f"give either axis or {old}, not both")
    return layer.axis(getattr(param, old), bottom)


@register("Concat")
class Concat(Layer):
    """Joins bottoms along an axis."""

    bottom_range = (1, None)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        first = bottoms[0]
        self.along = chosen_axis(self, self.spec.concat_param, "concat_dim", first)
        for index, other in enumerate(bottoms):
            if len(other) != len(first) or any(
                a != b for axis, (a, b) in enumerate(zip(first, other, strict=True)) if axis != self.along
            ):
                raise self.error(f"bottoms 0 {first} and {index} {other} differ beside axis {self.along}")
        return [(*first[: self.along], sum(shape[self.along] for shape in bottoms), *first[self.along + 1 :])]

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return (torch.cat(bottoms, self.along),) if len(bottoms) > 1 else bottoms


@register("Slice")
class Slice(Layer):
    """Cuts a bottom along an axis at slice_point, or into equal parts."""

    top_range = (1, None)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        (bottom,) = bottoms
        param = self.spec.slice_param
        self.along = chosen_axis(self, param, "slice_dim", bottom)
        size, tops = bottom[self.along], self.top_count
        points = list(param.slice_point)
        if points:
            if len(points) != tops - 1:
                raise self.error(f"{tops} tops want {tops - 1} slice_point, but there are {len(points)}")
            edges = [0, *points, size]
        elif size % tops:
            raise self.error(f"axis {self.along} of size {size} cannot be cut into {tops} equal tops: give slice_point")
        else:
            edges = [size // tops * part for part in range(tops + 1)]
        self.sizes = [end - start for start, end in itertools.pairwise(edges)]
        if min(self.sizes) < 1:
            raise self.error(f"slice_point {points} must increase, between 0 and {size}")
        return [(*bottom[: self.along], part, *bottom[self.along + 1 :]) for part in self.sizes]

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return torch.split_with_sizes(bottoms[0], self.sizes, self.along)


@register("Split")
class Split(Layer):
    """The bottom, as several tops."""

    top_range = (1, None)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [bottoms[0]] * self.top_count

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return bottoms * self.top_count


@register("Flatten")
class Flatten(Layer):
    """Merges the axes from `axis` to `end_axis`, inclusive, into one."""

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        (bottom,) = bottoms
        param = self.spec.flatten_param
        start, end = self.axis(param.axis, bottom), self.axis(param.end_axis, bottom)
        if end < start:
            raise self.error(f"end_axis {param.end_axis} comes before axis {param.axis} of a bottom of shape {bottom}")
        self.top = (*bottom[:start], count(bottom[start : end + 1]), *bottom[end + 1 :])
        return [self.top]

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return (bottoms[0].reshape(self.top),)


@register("Reshape")
class Reshape(Layer):
    """Replaces num_axes axes from `axis` on by `shape`, where 0 copies the bottom's size and -1 takes the rest."""

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        (bottom,) = bottoms
        param = self.spec.reshape_param
        start = self.axis(param.axis, bottom, end=True)
        end = len(bottom) if param.num_axes == -1 else start + param.num_axes
        if param.num_axes < -1 or end > len(bottom):
            raise self.error(
                f"num_axes {param.num_axes} from axis {start} on is out of range for a bottom of shape {bottom}"
            )
        new = list(param.shape.dim)
        for index, size in enumerate(new):
            if size == 0:
                if start + index >= len(bottom):
                    raise self.error(
                        f"shape has 0 at {index}, but a bottom of shape {bottom} has no axis {start + index}"
                    )
                new[index] = bottom[start + index]
        if new.count(-1) > 1 or min(new, default=0) < -1:
            raise self.error(f"shape {list(param.shape.dim)} may have -1 once, and nothing below")
        if -1 in new:
            known = count(bottom[:start]) * count(bottom[end:]) * -count(tuple(new))
            if not known or count(bottom) % known:
                raise self.error(f"a bottom of shape {bottom} cannot be divided into {list(param.shape.dim)}")
            new[new.index(-1)] = count(bottom) // known
        self.top = (*bottom[:start], *new, *bottom[end:])
        if count(self.top) != count(bottom):
            raise self.error(
                f"a bottom of shape {bottom} has {count(bottom)} numbers, {self.top} would have {count(self.top)}"
            )
        if len(self.top) > LARGEST_AXES:
            raise self.error(f"a blob has at most {LARGEST_AXES} axes, not {len(self.top)}")
        return [self.top]

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return (bottoms[0].reshape(self.top),)


@register("Tile")
class Tile(Layer):
    """Repeats the bottom along an axis, `tiles` times."""

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        (bottom,) = bottoms
        param = self.spec.tile_param
        along = self.axis(param.axis, bottom)
        if param.tiles < 1:
            raise self.error(f"tiles ({param.tiles}) must be at least 1")
        self.repeats = [param.tiles if axis == along else 1 for axis in range(len(bottom))]
        return [tuple(size * repeat for size, repeat in zip(bottom, self.repeats, strict=True))]

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return (bottoms[0].repeat(self.repeats),)


@register("Crop")
class Crop(Layer):
    """Crops bottom 0 to the sizes of bottom 1 on all axes from `axis` on, starting at `offset`."""

    bottom_range = (2, 2)
    without_gradient = frozenset({1})

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        bottom, like = bottoms
        param = self.spec.crop_param
        first = self.axis(param.axis, bottom)
        cropped = len(bottom) - first
        offsets = list(param.offset) or [0]
        if len(offsets) not in (1, cropped):
            raise self.error(
                f"{cropped} axes are cropped: give offset once, or {cropped} times, not {len(offsets)} times"
            )
        if len(like) != len(bottom):
            raise self.error(f"bottoms must have as many axes, but have shapes {bottom} and {like}")
        offsets = offsets * cropped if len(offsets) == 1 else offsets
        for axis, offset in enumerate(offsets, first):
            if bottom[axis] - offset < like[axis]:
                raise self.error(
                    f"axis {axis}: {like[axis]} from offset {offset} on is more than the bottom's {bottom[axis]}"
                )
        self.cuts = (
            *(slice(None) for _ in range(first)),
            *(slice(offset, offset + like[axis]) for axis, offset in enumerate(offsets, first)),
        )
        return [(*bottom[:first], *like[first:])]

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return (bottoms[0][self.cuts],)


@register("Filter")
class Filter(Layer):
    """Passes on the items of all other bottoms for which the last bottom, one number per item, is not 0.

    Their number is known only in `forward`; `reshape` returns the maximum.
    """

    bottom_range = (2, None)
    top_range = (1, None)

    def make(self, bottoms: Sequence[Shape], generator: torch.Generator | None) -> None:
        if self.top_count != len(bottoms) - 1:
            raise self.error(
                f"{len(bottoms)} bottoms (the last selects) want {len(bottoms) - 1} tops, not {self.top_count}"
            )

    def needs_gradient(self, bottom_index: int) -> bool:
        return bottom_index < len(self.spec.bottom) - 1

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        *items, selector = bottoms
        if not selector or count(selector[1:]) != 1:
            raise self.error(f"the selector (the last bottom) must have one number for each item, not shape {selector}")
        for index, shape in enumerate(items):
            if shape[:1] != selector[:1]:
                raise self.error(f"bottom {index} of shape {shape} has not as many items as the selector {selector}")
        return items

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        *items, selector = bottoms
        chosen = selector.reshape(-1).nonzero().squeeze(1)
        return tuple(bottom.index_select(0, chosen) for bottom in items)


@register("BatchReindex")
class BatchReindex(Layer):
    """The items of bottom 0 that bottom 1, one axis of integers, lists, in its order, possibly repeated."""

    bottom_range = (2, 2)
    without_gradient = frozenset({1})

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        bottom, indices = bottoms
        if len(indices) != 1 or not bottom:
            raise self.error(
                f"bottom 0 must have an axis and bottom 1 exactly one, but they have shapes {bottom} and {indices}"
            )
        return [(*indices, *bottom[1:])]

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return (bottoms[0].index_select(0, bottoms[1].long()),)


@register("Silence")
class Silence(Layer):
    """Takes blobs that no other layer takes, so that they are not reported as outputs."""

    bottom_range = (1, None)
    top_range = (0, 0)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return []

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return ()
