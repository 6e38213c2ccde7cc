"""Operations with known sums, for tests that disturb them."""

import numpy as np

from modum.box import Box
from modum.box.protocol.limits import CHUNK, WINDOW
from modum.testing.transport import whole_numbers

PIECES = WINDOW + 3  # more frames than may be under way
SIZE = (PIECES - 1) * CHUNK // 4 + 100
FIRST = 2  # request frames before the operation: JOIN and CREATE


def add(box: Box) -> None:
    x = whole_numbers(SIZE)
    buffer = box.create("b", SIZE)
    buffer.add(x)
    buffer.add(x, 2)
    np.testing.assert_array_equal(buffer.read(), 3 * x)
    assert buffer.version == 2


def exchange(box: Box) -> None:
    x = 2 * whole_numbers(SIZE, 1)
    moved = x.copy()
    buffer = box.create("b", SIZE)
    buffer.exchange(moved, 0.5)
    np.testing.assert_array_equal(moved, x / 2)
    np.testing.assert_array_equal(buffer.read(), x / 2)


def difference(box: Box) -> None:
    x = 2 * whole_numbers(SIZE, 1)
    d = x.copy()
    buffer = box.create("b", SIZE)
    buffer.exchange(d, 0.5, leave="difference")
    np.testing.assert_array_equal(d, x / 2)
    np.testing.assert_array_equal(buffer.read(), x / 2)
