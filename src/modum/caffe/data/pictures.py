"""Decode images with Pillow, and resize them by plain bilinear interpolation."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from modum.data import DataError

__all__ = ["decode", "encode", "read", "resize"]

KEPT = {"L": "L", "RGB": "RGB", "RGBA": "RGBA", "1": "L", "LA": "RGBA", "PA": "RGBA"}
"""Pillow's mode -> the mode that keeps its channels, as bytes; any other mode becomes RGB."""
DEEP = ("I", "I;16", "I;16B", "I;16L")
"""Modes of grey images of 16 bits, of which the upper eight are kept."""


def decode(content: bytes | memoryview, color: bool | None) -> NDArray[np.uint8]:
    """Decode an image. Orientation tags are ignored.

    Args:
        content: content of its file.
        color: True: three channels; False: one; None: as in the file.

    Returns:
        uint8 [channels, height, width], channels in the order blue, green, red (, alpha).

    Raises:
        DataError: the content is not an image, or is damaged.
    """
    try:
        with Image.open(io.BytesIO(content)) as file:
            if color is False:
                file.draft("L", file.size)  # a JPEG stores its brightness: no detour through RGB
            image: Image.Image = file
            if image.mode in DEEP:
                grey = np.asarray(image).astype(np.uint16, casting="unsafe") >> 8
                image = Image.fromarray(grey.astype(np.uint8))
            mode = {True: "RGB", False: "L", None: KEPT.get(image.mode, "RGB")}[color]
            pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"cannot be decoded as an image: {error}") from error
    if pixels.ndim == 2:
        return pixels[np.newaxis]
    blue_first = pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
    return np.ascontiguousarray(blue_first.transpose(2, 0, 1))


def read(path: str | os.PathLike[str], color: bool | None, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Read an image file.

    Args:
        path: path of the file.
        color: see `decode`.
        size: (height, width) to resize to; None: do not resize.

    Returns:
        The image, as from `decode`.

    Raises:
        DataError: the file cannot be read or decoded; the message names it.
    """
    try:
        image = decode(Path(path).read_bytes(), color)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except DataError as error:
        raise DataError(f"{path} {error}") from error
    return image if size is None else resize(image, size)


def resize(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return `image` [channels, height, width] at `size` (height, width).

    Interpolate bilinearly between the four pixels around each point, without smoothing first, as OpenCV's
    INTER_LINEAR does, up to rounding.
    """
    if image.shape[1:] == size:
        return image
    pixels = torch.from_numpy(image.astype(np.float32))[None]
    resized = torch.nn.functional.interpolate(pixels, size, mode="bilinear", align_corners=False)
    result: NDArray[np.uint8] = resized[0].round_().to(torch.uint8).numpy()
    return result


def encode(image: NDArray[np.uint8]) -> bytes:
    """Return `image` [channels, height, width], one channel or blue, green and red, as PNG, which is lossless."""
    rows = image[0] if len(image) == 1 else np.ascontiguousarray(image[::-1].transpose(1, 2, 0))
    stream = io.BytesIO()
    Image.fromarray(rows).save(stream, "PNG")
    return stream.getvalue()
