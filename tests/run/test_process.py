"""Output is cut into lines however it comes."""

import pytest

from modum.run.process import LineSplitter


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_lines_come_out_whole_however_they_are_cut(size: int) -> None:
    data = "first\n\nthird ü\nrest".encode()
    splitter = LineSplitter()
    lines = [line for i in range(0, len(data), size) for line in splitter.feed(data[i : i + size])]
    assert lines == ["first", "", "third ü"]
    assert splitter.finish() == ["rest"]
    assert splitter.finish() == []


def test_bytes_that_are_no_utf8_are_replaced_and_the_rest_stays() -> None:
    assert LineSplitter().feed(b"a\xff\xfeb\n") == ["a\ufffd\ufffdb"]


def test_of_a_line_that_was_rewritten_in_place_the_last_form_is_kept() -> None:
    assert LineSplitter().feed(b" 1%\r 50%\r100%\nwindows\r\n") == ["100%", "windows"]


def test_a_line_without_end_is_passed_on_before_it_fills_the_memory() -> None:
    splitter = LineSplitter()
    passed = [line for _ in range(100) for line in splitter.feed(b"x" * 10_000)]
    rest = splitter.finish()
    assert sum(map(len, passed + rest)) == 1_000_000
    assert len(passed) > 10
    assert max(map(len, passed)) < 80_000
