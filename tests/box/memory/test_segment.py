"""A segment's file."""

import os
from pathlib import Path

import pytest

from modum.box.memory.segment import create_memfd
from modum.box.protocol.limits import MAX_NAME


@pytest.mark.parametrize("letter", ["a", "é", "語", "🐟"])
def test_the_longest_name_that_a_buffer_may_have_names_a_segment(letter: str) -> None:
    name = letter * (MAX_NAME // len(letter.encode()))
    descriptor = create_memfd(name, 10)
    try:
        assert str(Path(f"/proc/self/fd/{descriptor}").readlink()).startswith(f"/memfd:modum:{name[:40]}")
    finally:
        os.close(descriptor)


def test_a_segment_cannot_be_shrunk_under_the_others() -> None:
    descriptor = create_memfd("b", 10000)
    try:
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)
