"""The layers MemoryData, DummyData and Input, filled by the program, by fillers, or by the user of the net."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from modum.caffe.data.base import random_state, seed_from, set_random_state
from modum.caffe.data.datum import Image
from modum.caffe.data.transform import Transformer
from modum.caffe.errors import CaffeError
from modum.caffe.layers.base import Layer, Range, Shape, register
from modum.caffe.proto import BlobShape, FillerParameter
from modum.data import DataError

__all__ = ["DummyData", "Input", "MemoryData"]


@register("MemoryData")
class MemoryData(Layer):
    """Images and labels that the program provides, batch by batch, over and over.

    Tops: images [batch_size, channels, height, width], labels [batch_size].
    """

    bottom_range: ClassVar[Range] = (0, 0)
    top_range: ClassVar[Range] = (2, 2)
    keeps_state: ClassVar[bool] = True

    def make(self, bottoms: Sequence[Shape], generator: torch.Generator | None) -> None:
        param = self.spec.memory_data_param
        self.batch_size = int(param.batch_size)
        self.row: Shape = (param.channels, param.height, param.width)
        if not self.batch_size * np.prod(self.row):
            raise self.error("memory_data_param: batch_size, channels, height and width must be set and positive")
        try:
            self._transformer = Transformer(self.spec.transform_param, self.phase)
        except (CaffeError, DataError, ValueError) as error:
            raise self.error(str(error)) from error
        self._random = np.random.default_rng(seed_from(generator) if self._transformer.needs_random else 0)
        self._data: Tensor | None = None
        self._labels = torch.empty(0)
        self._position = 0

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [(self.batch_size, *self.row), (self.batch_size,)]

    def set_input_arrays(self, data: ArrayLike, labels: ArrayLike) -> None:
        """Set the data of the next batches, which start at the first row and are not transformed.

        Float32 arrays are not copied: later writes to them show in later batches.

        Args:
            data: [rows, channels, height, width].
            labels: [rows] or [rows, 1, 1, 1].

        Raises:
            ValueError: the shape is not this layer's, or the rows are not a multiple of its batch size.
        """
        rows = np.ascontiguousarray(data, np.float32)
        flat = np.ascontiguousarray(labels, np.float32).reshape(-1)
        if rows.ndim != 4 or rows.shape[1:] != self.row:
            raise ValueError(f"layer {self.name!r} takes data of shape [rows, {self._dimensions}], not {rows.shape}")
        if len(rows) == 0 or len(rows) % self.batch_size:
            raise ValueError(f"{len(rows)} rows are no multiple of the batch size {self.batch_size}")
        if len(flat) != len(rows):
            raise ValueError(f"there are {len(flat)} labels for {len(rows)} rows")
        self._data, self._labels, self._position = torch.from_numpy(rows), torch.from_numpy(flat), 0

    def add(self, images: Sequence[Image] | NDArray[np.uint8], labels: Sequence[int]) -> None:
        """Set the data of the next batches, transformed as `transform_param` says.

        Args:
            images: each [channels, height, width].
            labels: one for each image.

        Raises:
            ValueError: as in `set_input_arrays`, for the transformed images.
            DataError: an image is too small for the crop, or does not fit the mean or the other images.
        """
        data = self._transformer(images, self._random, lambda index: f"image {index}")
        self.set_input_arrays(data, np.array(labels, np.float32))

    @property
    def _dimensions(self) -> str:
        return ", ".join(map(str, self.row))

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        """Return the next rows.

        Args:
            *bottoms: none.

        Returns:
            The tops: images and labels.

        Raises:
            ModelError: there are no rows yet.
        """
        if self._data is None:
            raise self.error("has no data yet: give it some by set_input_arrays()")
        rows = slice(self._position, self._position + self.batch_size)
        self._position = rows.stop % len(self._data)
        return self._data[rows], self._labels[rows]

    def rewind(self) -> None:
        """Make the next batch begin at the first row."""
        self._position = 0

    def place(self) -> dict[str, Any]:
        return {"row": self._position, "random": random_state(self._random)}

    def go_on(self, place: Mapping[str, Any]) -> None:
        self._position = int(place["row"])
        set_random_state(self._random, place["random"])


@register("DummyData")
class DummyData(Layer):
    """Blobs made by fillers: constant ones once, random ones anew for every batch.

    Tops: any number, with the shapes in `shape` (or num, channels, height and width), one for all or one each.
    """

    bottom_range: ClassVar[Range] = (0, 0)
    top_range: ClassVar[Range] = (1, None)
    keeps_state: ClassVar[bool] = True

    def make(self, bottoms: Sequence[Shape], generator: torch.Generator | None) -> None:
        param = self.spec.dummy_data_param
        self._shapes = self._read_shapes()
        fillers = list(param.data_filler) or [FillerParameter()]
        if len(fillers) not in (1, self.top_count):
            raise self.error(f"dummy_data_param: {len(fillers)} data_filler for {self.top_count} tops")
        self._fillers = fillers * self.top_count if len(fillers) == 1 else fillers
        self._seed = 0
        self._tops: list[Tensor] = []
        self._generator = torch.Generator()
        if any(filler.type != "constant" for filler in self._fillers):
            self._seed = seed_from(generator)
        for shape, filler in zip(self._shapes, self._fillers, strict=True):
            self.fill(torch.empty((1, *shape[1:])), filler, self._generator)  # reports a wrong filler now
        self.rewind()

    def _read_shapes(self) -> list[Shape]:
        param = self.spec.dummy_data_param
        legacy = (param.num, param.channels, param.height, param.width)
        if any(legacy):
            if param.shape:
                raise self.error("dummy_data_param: num, channels, height and width exclude shape")
            for name, numbers in zip(("num", "channels", "height", "width"), legacy, strict=True):
                if len(numbers) not in (1, self.top_count):
                    raise self.error(f"dummy_data_param: {len(numbers)} {name} for {self.top_count} tops")
            four = [list(numbers) * (self.top_count if len(numbers) == 1 else 1) for numbers in legacy]
            return list(zip(*four, strict=True))
        return _shapes_for_tops(self, "dummy_data_param", param.shape)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return list(self._shapes)

    def shard(self, worker: int, workers: int, seed: int = 0) -> None:
        """Restart with different random numbers for each worker."""
        if workers > 1:
            self._seed = int(np.random.default_rng((self._seed, seed, worker)).integers(2**62))
        self.rewind()

    def rewind(self) -> None:
        """Restart with the same random numbers."""
        self._generator.manual_seed(self._seed)

    def place(self) -> dict[str, Any]:
        return {"seed": self._seed, "random": self._generator.get_state()}

    def go_on(self, place: Mapping[str, Any]) -> None:
        self._seed = int(place["seed"])
        self._generator.set_state(place["random"])

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        """Return the next batch; a constant filler's tensors are the same objects each time."""
        first = not self._tops
        if first:
            self._tops = [torch.empty(shape) for shape in self._shapes]
        for index, filler in enumerate(self._fillers):
            if first or filler.type != "constant":
                self._tops[index] = torch.empty(self._shapes[index])
                self.fill(self._tops[index], filler, self._generator)
        return tuple(self._tops)


@register("Input")
class Input(Layer):
    """Blobs that the program fills before each forward pass; the net keeps their values, this layer their shapes."""

    bottom_range: ClassVar[Range] = (0, 0)
    top_range: ClassVar[Range] = (1, None)

    def make(self, bottoms: Sequence[Shape], generator: torch.Generator | None) -> None:
        self._shapes = _shapes_for_tops(self, "input_param", self.spec.input_param.shape)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return list(self._shapes)

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        """Return zeros, the blobs' values before the program fills them."""
        return tuple(torch.zeros(shape) for shape in self._shapes)


def _shapes_for_tops(layer: Layer, where: str, shapes: Sequence[BlobShape]) -> list[Shape]:
    """Return the shapes of all tops.

    Args:
        layer: the layer.
        where: field that has the shapes, for errors.
        shapes: one shape for all tops, or one for each.

    Returns:
        A shape for each top.

    Raises:
        ModelError: the number of shapes is neither 1 nor that of the tops.
    """
    dimensions = [tuple(shape.dim) for shape in shapes]
    if len(dimensions) not in (1, layer.top_count):
        raise layer.error(f"{where}: {len(dimensions)} shape for {layer.top_count} tops: say one for all or one each")
    return dimensions * layer.top_count if len(dimensions) == 1 else dimensions
