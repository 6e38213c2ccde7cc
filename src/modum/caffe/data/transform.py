"""`transform_param`: crop, subtract the mean, scale, mirror.

Each result is `(pixel - mean) * scale` in single precision. A mean file's mean is taken at the pixel's place
in the uncropped image. The crop is at a random place in TRAIN and in the center in TEST;
images are mirrored at random in both phases.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modum.caffe.data.datum import Image, naming
from modum.caffe.proto import TRAIN, TransformationParameter
from modum.caffe.weights import read_mean
from modum.data import DataError

__all__ = ["Transformer"]


class Transformer:
    """Transforms images [channels, height, width] as a layer's `transform_param` says.

    Raises `ValueError` for settings that contradict each other, and `DataError` or `CaffeError` for a mean file that
    cannot be read.
    """

    def __init__(self, param: TransformationParameter, phase: int) -> None:
        self.crop: int = param.crop_size
        self.mirror: bool = param.mirror
        self.scale = np.float32(param.scale)
        self.color: bool | None = True if param.force_color else False if param.force_gray else None
        """Whether encoded images are decoded in color, in grey, or as stored."""
        self._random_crop = phase == TRAIN and self.crop > 0
        self._mean: NDArray[np.float32] | None = None
        self._mean_values = np.array(param.mean_value, np.float32).reshape(-1, 1, 1)
        if param.force_color and param.force_gray:
            raise ValueError("transform_param: force_color and force_gray exclude each other")
        if param.HasField("mean_file"):
            if param.mean_value:
                raise ValueError("transform_param: mean_file and mean_value exclude each other")
            self._mean = _read_mean(param.mean_file)

    @property
    def needs_random(self) -> bool:
        """Whether results depend on the random numbers given to `__call__`."""
        return self.mirror or self._random_crop

    def shape(self, image: Sequence[int]) -> tuple[int, int, int]:
        """Return the shape of a transformed image.

        Args:
            image: shape (channels, height, width) of the image.

        Returns:
            (channels, height, width).

        Raises:
            DataError: the image is smaller than the crop, or does not fit the mean.
        """
        channels, height, width = image
        if min(height, width) < self.crop:
            raise DataError(f"an image of {height} x {width} is smaller than crop_size: {self.crop}")
        if self._mean is not None and self._mean.shape != tuple(image):
            raise DataError(f"an image of shape {list(image)} has a mean_file of shape {list(self._mean.shape)}")
        if len(self._mean_values) not in (0, 1, channels):
            raise DataError(f"an image of {channels} channels has {len(self._mean_values)} mean_value")
        return (channels, self.crop, self.crop) if self.crop else (channels, height, width)

    def window_mean(self, channels: int, top: int, left: int, height: int, width: int) -> NDArray[np.float32]:
        """Return the mean to subtract from a part of an image that was warped to the size of the crop.

        Args:
            channels: channels of the image.
            top: first row of the part in the square of the crop.
            left: first column.
            height: rows of the part.
            width: columns.

        Returns:
            float32, broadcastable to [channels, height, width]: the part of the mean file's center there, the
            mean values, or 0.

        Raises:
            DataError: the mean file is smaller than the crop, or has another number of channels.
        """
        if self._mean is None:
            if len(self._mean_values) not in (0, 1, channels):
                raise DataError(f"an image of {channels} channels has {len(self._mean_values)} mean_value")
            return self._mean_values if len(self._mean_values) else np.zeros((1, 1, 1), np.float32)
        if self._mean.shape[0] != channels or min(self._mean.shape[1:]) < self.crop:
            raise DataError(
                f"windows of shape {[channels, self.crop, self.crop]} have a mean_file of {list(self._mean.shape)}"
            )
        edge = (self._mean.shape[2] - self.crop) // 2
        return self._mean[:, edge + top : edge + top + height, edge + left : edge + left + width]

    def __call__(
        self, images: Sequence[Image] | NDArray[np.uint8], random: np.random.Generator, name: Callable[[int], str]
    ) -> NDArray[np.float32]:
        """Transform images.

        Args:
            images: each [channels, height, width].
            random: draws crops and mirroring.
            name: returns the name of an image, by its index, for errors.

        Returns:
            float32 [images, channels, height, width].

        Raises:
            DataError: the transformed images differ in shape, or as in `shape`; the message has the image's name.
        """
        with naming(partial(name, 0)):
            shape = self.shape(images[0].shape)
        result = np.empty((len(images), *shape), np.float32)
        if isinstance(images, np.ndarray) and not self.needs_random:
            self._subtract(images, self._middle(images.shape[2:]), result)
        else:
            for index, (image, row) in enumerate(zip(images, result, strict=True)):
                if image.shape != images[0].shape:
                    with naming(partial(name, index)):
                        self._check_alike(image.shape, images[0].shape)
                mirrored = self.mirror and random.integers(2) == 1
                corner = self._anywhere(image.shape[1:], random) if self._random_crop else self._middle(image.shape[1:])
                self._subtract(image, corner, row[..., ::-1] if mirrored else row)
        if self.scale != 1:
            result *= self.scale
        return result

    def _check_alike(self, shape: Sequence[int], first: Sequence[int]) -> None:
        if self.shape(shape) != self.shape(first):
            raise DataError(
                f"an image of shape {list(shape)} is in one batch with one of {list(first)}; HINT: set crop_size, or "
                "resize the images when the data set is made"
            )

    def _anywhere(self, size: Sequence[int], random: np.random.Generator) -> tuple[int, int]:
        return int(random.integers(size[0] - self.crop + 1)), int(random.integers(size[1] - self.crop + 1))

    def _middle(self, size: Sequence[int]) -> tuple[int, int]:
        return ((size[0] - self.crop) // 2, (size[1] - self.crop) // 2) if self.crop else (0, 0)

    def _subtract(self, images: NDArray[Any], corner: tuple[int, int], result: NDArray[np.float32]) -> None:
        """Write the crop of `images` [..., height, width] at `corner`, minus the mean, to `result`."""
        top, left = corner
        window = (..., slice(top, top + result.shape[-2]), slice(left, left + result.shape[-1]))
        if self._mean is not None:
            np.subtract(images[window], self._mean[window], out=result, dtype=np.float32)
        elif len(self._mean_values):
            np.subtract(images[window], self._mean_values, out=result, dtype=np.float32)
        else:
            result[...] = images[window]


def _read_mean(path: str) -> NDArray[np.float32]:
    """Return the mean image [channels, height, width] in the file at `path`."""
    if not Path(path).exists():
        raise DataError(f"there is no mean_file {path}; HINT: modum caffe convert mean DATABASE {path} makes it")
    mean = read_mean(path)
    if mean.ndim != 3:
        raise DataError(f"the mean_file {path} has the shape {list(mean.shape)}, not that of one image")
    return mean
