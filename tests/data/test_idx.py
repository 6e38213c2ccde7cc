"""Reading IDX: what is whole comes back exactly, and everything else is refused with its numbers."""

import contextlib
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from modum.data.idx import DataError, parse_idx


def idx(array: NDArray[np.uint8]) -> bytes:
    """`array` in the IDX format."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@given(arrays(np.uint8, array_shapes(max_dims=4, max_side=5)))
def test_an_array_comes_back_as_it_was(array: NDArray[np.uint8]) -> None:
    parsed = parse_idx(idx(array), array.shape)
    assert np.array_equal(parsed, array)
    assert parsed.flags.writeable


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "magic number is  instead of 00000802"),
        (
            b"\x00\x00\x0d\x02" + idx(np.zeros((2, 3), np.uint8))[4:],
            "magic number is 00000d02 instead of 00000802",
        ),
        (idx(np.zeros(6, np.uint8)), "magic number is 00000801 instead of 00000802"),
        (idx(np.zeros((3, 2), np.uint8)), r"shape is \[3, 2\] instead of \[2, 3\]"),
        (idx(np.zeros((2, 3), np.uint8))[:9], r"shape is \[2\] instead of \[2, 3\]"),
        (idx(np.zeros((2, 3), np.uint8))[:-1], r"5 elements instead of 6 for shape \[2, 3\]"),
        (idx(np.zeros((2, 3), np.uint8)) + b"?", r"7 elements instead of 6 for shape \[2, 3\]"),
    ],
)
def test_anything_else_is_refused_with_what_was_found(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_idx(content, (2, 3))


@given(st.binary(max_size=16))
def test_random_bytes_behind_a_good_start_raise_nothing_but_a_data_error(content: bytes) -> None:
    with contextlib.suppress(DataError):
        assert parse_idx(b"\x00\x00\x08\x02" + content, (2, 3)).shape == (2, 3)
