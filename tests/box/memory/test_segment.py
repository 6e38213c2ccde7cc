"""A segment's file."""

import os

import pytest

from modum.box.memory.segment import create_memfd


def test_a_segment_cannot_be_shrunk_under_the_others() -> None:
    descriptor = create_memfd("b", 10000)
    try:
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)
