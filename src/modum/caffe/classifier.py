"""Nets that classify pictures, with pycaffe's interface: `Classifier` and `Detector`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from modum.caffe.in_batches import forward_all
from modum.caffe.io import Transformer, load_image, resize_image
from modum.caffe.io import oversample as ten_crops
from modum.caffe.net import Net
from modum.caffe.proto import TEST

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["Classifier", "Detector"]

Array = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


class _Seeing(Net):
    """A net in phase TEST with a `Transformer` for its one input.

    `mean`, `input_scale`, `raw_scale` and `channel_swap` are as in `Transformer`.
    """

    def __init__(
        self,
        model_file: str | Path,
        pretrained_file: str | Path,
        mean: NDArray[Any] | None = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
    ) -> None:
        super().__init__(model_file, TEST, pretrained_file)
        (name,) = self.inputs
        self.transformer = Transformer({name: self.blobs[name].shape})
        self.transformer.set_transpose(name, (2, 0, 1))
        if mean is not None:
            self.transformer.set_mean(name, mean)
        if input_scale is not None:
            self.transformer.set_input_scale(name, input_scale)
        if raw_scale is not None:
            self.transformer.set_raw_scale(name, raw_scale)
        if channel_swap is not None:
            self.transformer.set_channel_swap(name, channel_swap)
        self.crop_dims = np.array(self.blobs[name].shape[2:])

    def predict_crops(self, crops: Iterable[NDArray[Any]]) -> Array:
        """Return the first output [crops, ...] for images of about the input's size."""
        (name,) = self.inputs
        batch = np.stack([self.transformer.preprocess(name, crop) for crop in crops])
        return forward_all(self, None, {name: batch})[self.outputs[0]]


class Classifier(_Seeing):
    """Classifies pictures.

        classifier = Classifier("deploy.prototxt", "net.caffemodel", image_dims=(256, 256), raw_scale=255)
        print(classifier.predict([load_image("cat.jpg")]).argmax(1))

    `image_dims` is the size (height, width) to which pictures are resized before crops of the input's size; by default
    the input's.
    """

    def __init__(
        self,
        model_file: str | Path,
        pretrained_file: str | Path,
        image_dims: Sequence[int] | None = None,
        mean: NDArray[Any] | None = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
    ) -> None:
        super().__init__(model_file, pretrained_file, mean, input_scale, raw_scale, channel_swap)
        self.image_dims = np.array(self.crop_dims if image_dims is None else image_dims)

    def predict(self, inputs: Iterable[NDArray[Any]], oversample: bool = True) -> Array:
        """Return the net's output [pictures, classes]: the mean over ten crops, or that of the center crop."""
        images = [resize_image(image, self.image_dims) for image in inputs]
        if oversample:
            predictions = self.predict_crops(ten_crops(images, self.crop_dims))
            mean: Array = predictions.reshape(len(images), 10, -1).mean(1)
            return mean
        (top, left), (height, width) = (self.image_dims - self.crop_dims) // 2, self.crop_dims
        return self.predict_crops([image[top : top + height, left : left + width] for image in images])


class Detector(_Seeing):
    """Classifies windows of pictures, as R-CNN does (Girshick et al. 2014).

    `context_pad` pixels of the input on each side show the surroundings of the window; beyond the picture, the mean.
    """

    def __init__(
        self,
        model_file: str | Path,
        pretrained_file: str | Path,
        mean: NDArray[Any] | None = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
        context_pad: int | None = None,
    ) -> None:
        super().__init__(model_file, pretrained_file, mean, input_scale, raw_scale, channel_swap)
        self.context_pad = context_pad or 0

    def detect_windows(self, images_windows: Iterable[tuple[str, Iterable[Sequence[float]]]]) -> list[dict[str, Any]]:
        """Return a dictionary of window, prediction and filename for each window (ymin, xmin, ymax, xmax)."""
        windows = [(name, np.asarray(window)) for name, some in images_windows for window in some]
        images = {name: load_image(name) for name, _ in windows}
        if not windows:
            return []
        predictions = self.predict_crops([self.crop(images[name], window) for name, window in windows])
        return [
            {"window": window, "prediction": prediction, "filename": name}
            for (name, window), prediction in zip(windows, predictions, strict=True)
        ]

    def crop(self, im: NDArray[Any], window: NDArray[Any]) -> Array:
        """Return a window of a picture with its surroundings."""
        top, left, bottom, right = (float(edge) for edge in window)
        if not self.context_pad:
            return im[int(top) : int(bottom), int(left) : int(right)]
        side = int(self.crop_dims[0])
        grow = side / (side - 2 * self.context_pad)
        half = np.array([bottom - top + 1, right - left + 1]) / 2
        center = np.array([top, left]) + half
        start, end = np.round(center - grow * half).astype(int), np.round(center + grow * half).astype(int)
        scale = side / (end - start + 1)
        first, last = np.maximum(start, 0), np.minimum(end, im.shape[:2])
        pad = np.round((first - start) * scale).astype(int)
        size = np.minimum(np.round((last - first + 1) * scale).astype(int), side - pad)
        found = np.broadcast_to(self._mean_image(), (side, side, im.shape[2])).copy()
        inside = resize_image(im[first[0] : last[0], first[1] : last[1]], size)
        found[pad[0] : pad[0] + size[0], pad[1] : pad[1] + size[1]] = inside
        return found

    def _mean_image(self) -> Array:
        """Return the image that becomes zeros in the net."""
        (name,) = self.inputs
        return self.transformer.deprocess(name, np.zeros(self.blobs[name].shape[1:], np.float32))
