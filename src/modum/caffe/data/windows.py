"""The layer WindowData: windows of images, with and without an object, on which R-CNN trains.

Girshick, Donahue, Darrell and Malik 2014, "Rich feature hierarchies for accurate object detection and semantic
segmentation", appendix A, describe how windows are warped and what the context around them is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modum.caffe.data.base import Batch, Checkpoint, Loader, PrefetchingLayer
from modum.caffe.data.pictures import decode, read, resize
from modum.caffe.data.transform import Transformer
from modum.caffe.layers.base import Shape, register
from modum.caffe.proto import LayerParameter, WindowDataParameter
from modum.data import DataError

__all__ = ["Window", "WindowData", "warp"]


CHANNELS = 3
"""Channels of images, which are read in color, whatever the window file says."""


@register("WindowData")
class WindowData(PrefetchingLayer):
    """Windows drawn at random from a window file, warped to a square, background first, then foreground.

    Tops: images [batch_size, channels, crop_size, crop_size], labels [batch_size], 0 for the background.
    """

    def make_loader(self) -> WindowLoader:
        return WindowLoader(self.spec, self.phase)


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of an image, including its last row and column."""

    image: int
    label: int
    x1: int
    y1: int
    x2: int
    y2: int


class WindowLoader(Loader):
    """Loads the batches of a WindowData layer."""

    def __init__(self, spec: LayerParameter, phase: int) -> None:
        super().__init__()
        param = spec.window_data_param
        if not param.batch_size:
            raise ValueError("window_data_param: batch_size must be positive")
        if param.crop_mode not in ("warp", "square"):
            raise ValueError(f'window_data_param: crop_mode: "{param.crop_mode}" must be "warp" or "square"')
        self._batch_size = param.batch_size
        self._foreground = int(np.float32(param.batch_size) * np.float32(param.fg_fraction))
        self._transformer = Transformer(spec.transform_param, phase)
        self._crop = self._transformer.crop
        if not self._crop:
            raise ValueError("transform_param: crop_size must be positive for WindowData")
        self._context = param.context_pad
        if 2 * self._context >= self._crop:
            raise ValueError(f"window_data_param: context_pad ({self._context}) must be less than half of crop_size")
        self._square = param.crop_mode == "square"
        self._paths, self._windows = _read_windows(param)
        if self._foreground and not self._windows[1]:
            raise DataError(f"{param.source} has no window that overlaps an object by {param.fg_threshold:g} or more")
        if self._foreground < self._batch_size and not self._windows[0]:
            raise DataError(
                f"{param.source} has no window that overlaps all objects by less than {param.bg_threshold:g}"
            )
        self._cache: dict[int, bytes] | None = None
        if param.cache_images:
            self._cache = {index: _content(path) for index, path in enumerate(self._paths)}

    @property
    def needs_random(self) -> bool:
        return True

    def shapes(self) -> list[Shape]:
        self._image(0)
        self._transformer.window_mean(CHANNELS, 0, 0, self._crop, self._crop)
        return [(self._batch_size, CHANNELS, self._crop, self._crop), (self._batch_size,)]

    def load(self, checkpoint: Checkpoint) -> Batch:
        images = np.zeros((self._batch_size, CHANNELS, self._crop, self._crop), np.float32)
        labels = np.empty(self._batch_size, np.float32)
        background = self._batch_size - self._foreground
        for item in range(self._batch_size):
            checkpoint()
            choice = self._windows[item >= background]
            window = choice[self.random.integers(len(choice))]
            mirror = self._transformer.mirror and self.random.integers(2) == 1
            warped, top, left = warp(self._image(window.image), window, self._crop, self._context, self._square, mirror)
            height, width = warped.shape[1:]
            place = images[item, :, top : top + height, left : left + width]
            np.subtract(
                warped, self._transformer.window_mean(CHANNELS, top, left, height, width), out=place, dtype=np.float32
            )
            place *= self._transformer.scale
            labels[item] = window.label
        return images, labels

    def _image(self, index: int) -> NDArray[np.uint8]:
        if self._cache is None:
            return read(self._paths[index], color=True)
        return decode(self._cache[index], color=True)


def warp(
    image: NDArray[np.uint8], window: Window, crop: int, context: int, square: bool, mirror: bool
) -> tuple[NDArray[np.uint8], int, int]:
    """Return the part of `image` in `window`, warped to fit into `crop` x `crop`, and its place in that square.

    If the window reaches beyond the image, the square stays empty there.

    Args:
        image: uint8 [channels, height, width].
        window: the part of the image; it is first widened, so that after warping `context` pixels on each side are
            around it.
        crop: side of the square, in pixels.
        context: pixels of the square on each side of the window.
        square: whether to first make the window's shorter side as long as the other.
        mirror: whether to exchange left and right, which also mirrors the part's place.

    Returns:
        The part, uint8 [channels, at most `crop`, at most `crop`], and its first row and column in the square.
    """
    x1, y1, x2, y2 = window.x1, window.y1, window.x2, window.y2
    top = left = 0
    height = width = crop
    if context or square:
        half_height, half_width = (y2 - y1 + 1) / 2, (x2 - x1 + 1) / 2
        center_x, center_y = x1 + half_width, y1 + half_height
        if square:
            half_height = half_width = max(half_height, half_width)
        scale = crop / (crop - 2 * context)
        x1, x2 = _round(center_x - half_width * scale), _round(center_x + half_width * scale)
        y1, y2 = _round(center_y - half_height * scale), _round(center_y + half_height * scale)
        scale_x, scale_y = crop / (x2 - x1 + 1), crop / (y2 - y1 + 1)
        beyond_left, beyond_right = max(0, -x1), max(0, x2 - image.shape[2] + 1)
        beyond_top, beyond_bottom = max(0, -y1), max(0, y2 - image.shape[1] + 1)
        x1, x2, y1, y2 = x1 + beyond_left, x2 - beyond_right, y1 + beyond_top, y2 - beyond_bottom
        top = _round(beyond_top * scale_y)
        left = _round((beyond_right if mirror else beyond_left) * scale_x)
        top, left = min(top, crop - 1), min(left, crop - 1)
        height = min(max(1, _round((y2 - y1 + 1) * scale_y)), crop - top)
        width = min(max(1, _round((x2 - x1 + 1) * scale_x)), crop - left)
    if not (0 <= x1 <= x2 < image.shape[2] and 0 <= y1 <= y2 < image.shape[1]):
        raise DataError(f"{window} is not inside of its image of {image.shape[1]} x {image.shape[2]}")
    warped = resize(np.ascontiguousarray(image[:, y1 : y2 + 1, x1 : x2 + 1]), (height, width))
    return (warped[..., ::-1] if mirror else warped), top, left


def _round(number: float) -> int:
    """Return the nearest integer; halves round away from zero, as in C."""
    return int(math.copysign(math.floor(abs(number) + 0.5), number))


def _content(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _read_windows(param: WindowDataParameter) -> tuple[list[str], tuple[list[Window], list[Window]]]:
    """Return the images of a window file, and the windows without and with an object.

    For each image the file has these words: `#`, an index, the path, channels, height, width and the number of windows;
    then class, overlap, x1, y1, x2 and y2 of each window. Windows between the two thresholds are left out.
    """
    source = param.source
    try:
        words = iter(Path(source).read_text(encoding="utf-8").split())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the window file {source} cannot be read: {error}") from error
    paths: list[str] = []
    background: list[Window] = []
    foreground: list[Window] = []
    try:
        for mark in words:
            if mark != "#":
                raise ValueError(f"{mark!r} instead of '#'")
            _, path, _, _, _, number = (next(words) for _ in range(6))
            paths.append(param.root_folder + path)
            for _ in range(int(number)):
                label, overlap = int(next(words)), float(next(words))
                corners = [int(next(words)) for _ in range(4)]
                if overlap >= param.fg_threshold:
                    if label < 1:
                        raise ValueError(f"a window with an object has class {label}")
                    foreground.append(Window(len(paths) - 1, label, *corners))
                elif overlap < param.bg_threshold:
                    background.append(Window(len(paths) - 1, 0, *corners))
    except (RuntimeError, StopIteration, ValueError) as error:  # a generator turns StopIteration into RuntimeError
        reason = str(error) if isinstance(error, ValueError) else "the file ends in the middle of an image"
        raise DataError(f"{source}: after the path of image {len(paths) - 1}: {reason}") from error
    if not paths:
        raise DataError(f"the window file {source} is empty")
    return paths, (background, foreground)
