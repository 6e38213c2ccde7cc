"""The layer ImageData: batches of images and labels from a list of image files."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import numpy as np

from modum.caffe.data.base import Batch, Checkpoint, Decoders, PrefetchingLayer, Shape, Source
from modum.caffe.data.datum import Image
from modum.caffe.data.pictures import read
from modum.caffe.data.transform import Transformer
from modum.caffe.layers.base import register
from modum.caffe.proto import LayerParameter
from modum.data import DataError

__all__ = ["ImageData", "read_image_list"]


@register("ImageData")
class ImageData(PrefetchingLayer):
    """Image files in the order of their list, or in a new random order each round.

    Tops: images [batch_size, channels, height, width], labels [batch_size]. If images differ in size, those of
    a batch must be equal, unless new_height and new_width or crop_size make them so.
    """

    def make_loader(self) -> ImageListLoader:
        return ImageListLoader(self.spec, self.phase)


class ImageListLoader(Source):
    """Loads the batches of an ImageData layer."""

    def __init__(self, spec: LayerParameter, phase: int) -> None:
        super().__init__()
        param = spec.image_data_param
        if not param.batch_size:
            raise ValueError("image_data_param: batch_size must be positive")
        if bool(param.new_height) != bool(param.new_width):
            raise ValueError("image_data_param: new_height and new_width must be set together")
        self._batch_size = param.batch_size
        self._rand_skip = param.rand_skip
        self._shuffle = param.shuffle
        self._color = param.is_color
        self._size = (param.new_height, param.new_width) if param.new_height else None
        self._transformer = Transformer(spec.transform_param, phase)
        self._images = [(param.root_folder + path, label) for path, label in read_image_list(param.source)]
        if self._rand_skip >= len(self._images):
            raise ValueError(
                f"image_data_param: rand_skip: {self._rand_skip} must be less than the {len(self._images)} images"
            )
        self._order_of_round = np.arange(len(self._images))
        self._position = 0
        self._decoders = Decoders()

    @property
    def needs_random(self) -> bool:
        return self._shuffle or self._rand_skip > 0 or self._transformer.needs_random

    @property
    def rand_skip(self) -> int:
        return int(self._rand_skip)

    def shapes(self) -> list[Shape]:
        shape = self._transformer.shape(self._read(self._images[0][0]).shape)
        return [(self._batch_size, *shape), (self._batch_size,)]

    def rewind(self) -> None:
        self._position = 0
        self._start_round()

    def advance(self, count: int) -> None:
        self._position += count
        while self._position >= len(self._images):
            self._position -= len(self._images)
            self._start_round()

    def _start_round(self) -> None:
        if self._shuffle:
            self._order_of_round = self.order.permutation(len(self._images))

    def load(self, checkpoint: Checkpoint) -> Batch:
        chosen = []
        for _ in range(self._batch_size):
            self.take_turn()
            chosen.append(self._images[self._order_of_round[self._position]])
        paths = [path for path, _ in chosen]
        images = self._decoders.map(self._read, paths, checkpoint)
        batch = self._transformer(images, self.random, lambda index: paths[index])
        return batch, np.array([label for _, label in chosen], np.float32)

    def _read(self, path: str) -> Image:
        return read(path, self._color, self._size)

    def close(self) -> None:
        self._decoders.close()


def read_image_list(source: str | PathLike[str]) -> list[tuple[str, int]]:
    """Read a list of image files: on each line a path, a space and an integer.

    Args:
        source: path of the list.

    Returns:
        Paths and labels.

    Raises:
        DataError: the list is missing, empty or malformed; the message has the line.
    """
    try:
        lines = Path(source).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the list of images {source} cannot be read: {error}") from error
    images = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        path, _, label = line.rstrip().rpartition(" ")
        try:
            images.append((path.rstrip(), int(label)))
        except ValueError as error:
            raise DataError(f"{source}:{number}: {line!r} is not a path, a space and a whole number") from error
        if not path:
            raise DataError(f"{source}:{number}: {line!r} has no path before its label")
    if not images:
        raise DataError(f"the list of images {source} is empty")
    return images
