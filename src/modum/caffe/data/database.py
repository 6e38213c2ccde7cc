"""The layer Data: batches of images and labels from a database of `Datum` records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from modum.caffe.data.base import Batch, Checkpoint, Decoders, PrefetchingLayer, Shape, Source
from modum.caffe.data.datum import Image, naming, parse, pixels, stack
from modum.caffe.data.store import open_store
from modum.caffe.data.transform import Transformer
from modum.caffe.layers.base import Range, register
from modum.caffe.proto import DataParameter, Datum, LayerParameter

__all__ = ["Data"]


@register("Data")
class Data(PrefetchingLayer):
    """Records of an LMDB or a LevelDB in the order of their keys, over and over.

    Tops: images [batch_size, channels, height, width], and labels [batch_size] if there is a second one. If
    images differ in size, those of a batch must be equal, unless crop_size makes them so.
    """

    top_range: ClassVar[Range] = (1, 2)

    def make_loader(self) -> DatabaseLoader:
        return DatabaseLoader(self.spec, self.phase)


class DatabaseLoader(Source):
    """Loads the batches of a Data layer."""

    def __init__(self, spec: LayerParameter, phase: int) -> None:
        super().__init__()
        param = spec.data_param
        if not param.batch_size:
            raise ValueError("data_param: batch_size must be positive")
        self._batch_size = param.batch_size
        self._rand_skip = param.rand_skip
        self._labels = len(spec.top) > 1
        self._transformer = Transformer(spec.transform_param, phase)
        self._color = True if param.force_encoded_color else self._transformer.color
        self._decoders = Decoders()
        self._cursor = open_store(param.source, DataParameter.DB.Name(param.backend))

    @property
    def needs_random(self) -> bool:
        return self._transformer.needs_random or self._rand_skip > 0

    @property
    def rand_skip(self) -> int:
        return int(self._rand_skip)

    def shapes(self) -> list[Shape]:
        with naming(lambda: self._name(self._cursor.key)):
            shape = self._transformer.shape(pixels(parse(self._cursor.value), self._color).shape)
        shapes: list[Shape] = [(self._batch_size, *shape), (self._batch_size,)]
        return shapes if self._labels else shapes[:1]

    def rewind(self) -> None:
        self._cursor.rewind()

    def advance(self, count: int) -> None:
        for _ in range(count):
            self._cursor.next()

    def load(self, checkpoint: Checkpoint) -> Batch:
        keys: list[bytes] = []
        datums: list[Datum] = []
        for _ in range(self._batch_size):
            checkpoint()
            self.take_turn()
            keys.append(self._cursor.key)
            with naming(lambda: self._name(keys[-1])):
                datums.append(parse(self._cursor.value))
        batch = self._transformer(self._images(keys, datums, checkpoint), self.random, lambda i: self._name(keys[i]))
        if not self._labels:
            return (batch,)
        return batch, np.array([datum.label for datum in datums], np.float32)

    def _images(
        self, keys: Sequence[bytes], datums: Sequence[Datum], checkpoint: Checkpoint
    ) -> Sequence[Image] | NDArray[np.uint8]:
        raw = stack(datums)
        if raw is not None:
            return raw

        def image(item: tuple[bytes, Datum]) -> Image:
            with naming(lambda: self._name(item[0])):
                return pixels(item[1], self._color)

        return self._decoders.map(image, list(zip(keys, datums, strict=True)), checkpoint)

    def _name(self, key: bytes) -> str:
        return f"record {key.decode(errors='replace')} of {self._cursor.path}"

    def close(self) -> None:
        self._decoders.close()
        self._cursor.close()
