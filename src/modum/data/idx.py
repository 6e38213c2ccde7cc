"""The IDX format of MNIST and its relatives: a magic number, the dimensions, then the elements.

Two zero bytes, a byte for the type of the elements (8: unsigned byte), a byte for the number of dimensions,
each dimension as a big-endian 32-bit number, then the elements, the last dimension varying fastest.
"""

import math
import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from modum.errors import ModumError

__all__ = ["DataError", "parse_idx"]

UNSIGNED_BYTE = 0x08


class DataError(ModumError):
    """Training data are missing or not valid."""


def parse_idx(content: bytes, shape: Sequence[int]) -> NDArray[np.uint8]:
    """Return the array of unsigned bytes in the content of an IDX file.

    Args:
        content: content of the file, decompressed.
        shape: the shape that it must have.

    Returns:
        A writable copy, uint8 of `shape`.

    Raises:
        DataError: `content` is not IDX, has other elements than unsigned bytes, another shape, or more or fewer
            elements than its header says.
    """
    expected = struct.pack(f">HBB{len(shape)}I", 0, UNSIGNED_BYTE, len(shape), *shape)
    header = content[: len(expected)]
    if header[:4] != expected[:4]:
        raise DataError(f"the magic number is {header[:4].hex()} instead of {expected[:4].hex()}")
    if header != expected:
        found = [length for (length,) in struct.iter_unpack(">I", header[4 : len(header) // 4 * 4])]
        raise DataError(f"the shape is {found} instead of {list(shape)}")
    elements = len(content) - len(header)
    if elements != math.prod(shape):
        raise DataError(f"{elements} elements instead of {math.prod(shape)} for shape {list(shape)}")
    return np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape).copy()
