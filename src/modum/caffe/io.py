"""Prepare images for nets, and convert arrays to and from messages: pycaffe's `caffe.io`.

Images are float32 arrays [height, width, channels] with values from 0 to 1, in the order red, green, blue.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image

from modum.caffe.arrays import from_blob, to_blob
from modum.caffe.proto import BlobProto, BlobProtoVector, Datum

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from os import PathLike

    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Transformer",
    "array_to_blobproto",
    "array_to_datum",
    "arraylist_to_blobprotovector_str",
    "blobproto_to_array",
    "blobprotovector_str_to_arraylist",
    "datum_to_array",
    "load_image",
    "oversample",
    "resize_image",
]

Array = np.ndarray[tuple[int, ...], np.dtype[np.float32]]

LUMA = np.array([0.2125, 0.7154, 0.0721], np.float32)
"""Weights of red, green and blue in a grey picture (ITU-R BT.709), as in scikit-image, which pycaffe uses."""
INTERPOLATIONS = ("nearest-exact", "bilinear", None, "bicubic")
"""Interpolation modes by the order of the polynomial."""


def load_image(path: str | PathLike[str], color: bool = True) -> Array:
    """Return the picture in a file: [height, width, 3], or [height, width, 1] in grey. Alpha channels are dropped."""
    with Image.open(path) as picture:
        if picture.mode.startswith("I"):  # 16 bits of grey
            image: Array = np.asarray(picture, np.float32)[:, :, None] / np.float32(2**16 - 1)
        else:
            grey = picture.mode in ("1", "L", "LA")
            image = np.asarray(picture.convert("L" if grey else "RGB"), np.float32) / np.float32(255)
            image = image[:, :, None] if grey else image
    if color and image.shape[2] == 1:
        image = np.tile(image, (1, 1, 3))
    elif not color and image.shape[2] == 3:
        image = np.einsum("hwc,c->hw", image, LUMA)[:, :, None]
    return image


def resize_image(im: NDArray[Any], new_dims: Sequence[int] | NDArray[np.integer], interp_order: int = 1) -> Array:
    """Resize an image.

    Args:
        im: [height, width, channels].
        new_dims: (height, width).
        interp_order: 0 for the nearest pixel, 1 for linear and 3 for cubic interpolation between pixels.

    Returns:
        The resized image, float32 [height, width, channels].

    Raises:
        ValueError: `interp_order` is another number.
    """
    if not 0 <= interp_order < len(INTERPOLATIONS) or (mode := INTERPOLATIONS[interp_order]) is None:
        raise ValueError(f"interp_order ({interp_order}) must be 0, 1 or 3")
    planes = torch.from_numpy(np.ascontiguousarray(im, np.float32)).permute(2, 0, 1)[None]
    size = (int(new_dims[0]), int(new_dims[1]))
    smooth = {} if interp_order == 0 else {"align_corners": False}
    resized: Array = F.interpolate(planes, size, mode=mode, **smooth)[0].permute(1, 2, 0).numpy()
    return np.ascontiguousarray(resized)


def oversample(images: Iterable[NDArray[Any]], crop_dims: Sequence[int] | NDArray[np.integer]) -> Array:
    """Return ten crops of each image, its corners and center, then these mirrored: [10 n, height, width, channels].

    `crop_dims` is (height, width).
    """
    crops = []
    for image in images:
        (height, width), (high, wide) = image.shape[:2], (int(size) for size in crop_dims)
        corners = [(y, x) for y in (0, height - high) for x in (0, width - wide)]
        five = [
            image[y : y + high, x : x + wide]
            for y, x in (*corners, (int((height - high) / 2), int((width - wide) / 2)))
        ]
        crops += [*five, *(crop[:, ::-1] for crop in five)]
    return np.stack(crops).astype(np.float32)


def blobproto_to_array(blob: BlobProto, return_diff: bool = False) -> NDArray[np.floating]:
    """Return the values of a blob, or its gradient."""
    if not return_diff:
        return from_blob(blob, "the blob")
    shape = blobproto_to_array(blob).shape
    if len(blob.double_diff):
        return np.array(blob.double_diff, np.float64).reshape(shape)
    return np.array(blob.diff, np.float32).reshape(shape)


def array_to_blobproto(arr: ArrayLike, diff: ArrayLike | None = None) -> BlobProto:
    """Return a blob with the values `arr`, and the gradient `diff` if there is one."""
    blob = BlobProto()
    to_blob(np.asarray(arr, np.float32), blob, None if diff is None else np.asarray(diff, np.float32))
    return blob


def arraylist_to_blobprotovector_str(arraylist: Sequence[ArrayLike]) -> bytes:
    """Return several arrays as one message, in bytes."""
    content: bytes = BlobProtoVector(blobs=[array_to_blobproto(array) for array in arraylist]).SerializeToString()
    return content


def blobprotovector_str_to_arraylist(content: bytes) -> list[NDArray[np.floating]]:
    """Return the arrays in a message from `arraylist_to_blobprotovector_str`."""
    return [blobproto_to_array(blob) for blob in BlobProtoVector.FromString(content).blobs]


def array_to_datum(arr: NDArray[Any], label: int | None = None) -> Datum:
    """Make a database record from an array.

    Args:
        arr: [channels, height, width]; uint8 is stored as bytes, other dtypes as numbers.
        label: the record's label.

    Returns:
        The record.

    Raises:
        ValueError: the array does not have three axes.
    """
    if arr.ndim != 3:
        raise ValueError(f"a datum wants [channels, height, width], not an array of shape {arr.shape}")
    channels, height, width = arr.shape
    datum = Datum(channels=channels, height=height, width=width)
    if arr.dtype == np.uint8:
        datum.data = arr.tobytes()
    else:
        datum.float_data.extend(arr.astype(np.float32).flat)
    if label is not None:
        datum.label = label
    return datum


def datum_to_array(datum: Datum) -> NDArray[Any]:
    """Return a record's array [channels, height, width], uint8, or float64 as in pycaffe, without the label."""
    numbers = np.frombuffer(datum.data, np.uint8) if datum.data else np.array(datum.float_data, float)
    return numbers.reshape(datum.channels, datum.height, datum.width)


class Transformer:
    """Transforms loaded images to what the inputs of a net expect, and back.

    It does the steps that were set, in this order: resize to the input's size, transpose, swap channels, multiply by
    the raw scale (255, say), subtract the mean, multiply by the input scale. Input names that the net does not have
    raise `ValueError` everywhere.

    Args:
        inputs: the shape (batch, channels, height, width) of each input, by name.
    """

    def __init__(self, inputs: Mapping[str, Sequence[int]]) -> None:
        self.inputs = {name: tuple(shape) for name, shape in inputs.items()}
        self.transpose: dict[str, tuple[int, ...]] = {}
        self.channel_swap: dict[str, tuple[int, ...]] = {}
        self.raw_scale: dict[str, float] = {}
        self.mean: dict[str, Array] = {}
        self.input_scale: dict[str, float] = {}

    def set_transpose(self, in_: str, order: Sequence[int]) -> None:
        """Reorder the axes: (2, 0, 1) turns an image into [channels, height, width]."""
        if len(order) != len(self._shape(in_)) - 1:
            raise ValueError(f"order {tuple(order)} must have one number for each axis but the batch's")
        self.transpose[in_] = tuple(order)

    def set_channel_swap(self, in_: str, order: Sequence[int]) -> None:
        """Reorder the channels: (2, 1, 0) makes blue, green, red."""
        if len(order) != self._shape(in_)[1]:
            raise ValueError(f"order {tuple(order)} must have one number for each of {self._shape(in_)[1]} channels")
        self.channel_swap[in_] = tuple(order)

    def set_raw_scale(self, in_: str, scale: float) -> None:
        """Multiply by this before the mean is subtracted."""
        self._shape(in_)
        self.raw_scale[in_] = scale

    def set_mean(self, in_: str, mean: NDArray[Any]) -> None:
        """Subtract one number for each channel, or an image [channels, height, width]."""
        channels, *size = self._shape(in_)[1:]
        if mean.ndim == 1:
            mean = mean[:, None, None]
        if mean.ndim == 2:
            mean = mean[None]
        if mean.ndim != 3 or mean.shape[0] not in (1, channels):
            raise ValueError(f"a mean of shape {mean.shape} does not fit an input of shape {self._shape(in_)}")
        if mean.shape[1:] not in ((1, 1), tuple(size)):
            mean = resize_image(mean.transpose(1, 2, 0), size).transpose(2, 0, 1)
        self.mean[in_] = mean.astype(np.float32)

    def set_input_scale(self, in_: str, scale: float) -> None:
        """Multiply by this last."""
        self._shape(in_)
        self.input_scale[in_] = scale

    def preprocess(self, in_: str, data: NDArray[Any]) -> Array:
        """Return an image [height, width, channels] in the form that the input expects."""
        size = self._shape(in_)[2:]
        image = data.astype(np.float32)
        if image.shape[:2] != size:
            image = resize_image(image, size)
        if in_ in self.transpose:
            image = image.transpose(self.transpose[in_])
        if in_ in self.channel_swap:
            image = image[list(self.channel_swap[in_])]
        image = image * np.float32(self.raw_scale.get(in_, 1.0)) - self.mean.get(in_, np.float32(0))
        return image * np.float32(self.input_scale.get(in_, 1.0))

    def deprocess(self, in_: str, data: NDArray[Any]) -> Array:
        """Reverse `preprocess`, except for the size."""
        image = data.astype(np.float32).reshape(data.shape[-3:]) / np.float32(self.input_scale.get(in_, 1.0))
        image = (image + self.mean.get(in_, np.float32(0))) / np.float32(self.raw_scale.get(in_, 1.0))
        if in_ in self.channel_swap:
            image = image[np.argsort(self.channel_swap[in_])]
        if in_ in self.transpose:
            image = image.transpose(np.argsort(self.transpose[in_]))
        return image

    def _shape(self, in_: str) -> tuple[int, ...]:
        if in_ not in self.inputs:
            raise ValueError(f"{in_!r} is not one of the inputs {list(self.inputs)}")
        return self.inputs[in_]
