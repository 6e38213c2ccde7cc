"""The record of Caffe's databases, `Datum`: an image (raw bytes, numbers or encoded) and its label."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from modum.caffe.data.pictures import decode
from modum.caffe.proto import Datum
from modum.data import DataError

__all__ = ["Image", "naming", "parse", "pixels", "stack"]

Image: TypeAlias = "NDArray[np.uint8] | NDArray[np.float32]"
"""[channels, height, width]."""


@contextmanager
def naming(name: Callable[[], str]) -> Iterator[None]:
    """Prefix the text of a `DataError` raised inside with the result of `name`."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{name()}: {error}") from error


def parse(record: bytes | memoryview) -> Datum:
    """Parse a record.

    Args:
        record: the record's bytes.

    Returns:
        The message, a copy.

    Raises:
        DataError: the record is not a `Datum`.
    """
    datum = Datum()
    try:
        datum.ParseFromString(record)  # type: ignore[arg-type]  # any buffer will do
    except DecodeError as error:
        raise DataError(f"is no Datum: {error}") from error
    return datum


def pixels(datum: Datum, color: bool | None) -> Image:
    """Return the image of a record: its bytes if it has any, else its `float_data`.

    Args:
        datum: the record.
        color: for encoded images, see `decode`.

    Returns:
        [channels, height, width], uint8 or float32.

    Raises:
        DataError: the image cannot be decoded, or there are more or fewer numbers than its channels, height and width
            say.
    """
    if datum.encoded:
        return decode(datum.data, color)
    shape = (datum.channels, datum.height, datum.width)
    data: Image = np.frombuffer(datum.data, np.uint8) if datum.data else np.array(datum.float_data, np.float32)
    if min(shape) < 1 or data.size != math.prod(shape):
        raise DataError(f"has {data.size} numbers for an image of {' x '.join(map(str, shape))}")
    return data.reshape(shape)


def stack(datums: Sequence[Datum]) -> NDArray[np.uint8] | None:
    """Return raw images of one shape as one array.

    Args:
        datums: at least one record.

    Returns:
        Their images, uint8 [images, channels, height, width]; None unless all are raw bytes of one shape and its
        size.
    """
    first = datums[0]
    shape = (first.channels, first.height, first.width)
    size = math.prod(shape)
    if size < 1:
        return None
    for datum in datums:
        if datum.encoded or len(datum.data) != size or (datum.channels, datum.height, datum.width) != shape:
            return None
    return np.frombuffer(b"".join([datum.data for datum in datums]), np.uint8).reshape(len(datums), *shape)
