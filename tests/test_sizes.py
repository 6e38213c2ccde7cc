"""Amounts of memory are read and written as people write them."""

import pytest

from modum.units import format_bytes, parse_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("12B", 12),
        ("512MiB", 512 * 2**20),
        ("8GiB", 8 * 2**30),
        ("8 gib", 8 * 2**30),
        (" 2TiB ", 2 * 2**40),
        ("1.5GB", 1_500_000_000),
        ("1.5KiB", 1536),
        ("9007199254740993", 9007199254740993),
    ],
)
def test_a_size_is_parsed(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "8G", "-1", "8GiBs", "1e9", "1.GiB", "8  GiB", "nan", "٣"])
def test_what_is_not_a_size_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match=r"write it like 512MiB, 1\.5GB or 4096"):
        parse_bytes(text)


@pytest.mark.parametrize("text", ["0", "0GiB", "0.5B"])
def test_less_than_a_byte_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="less than one byte"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (2**20 - 1, "1 MiB"),
        (8 * 2**30, "8 GiB"),
        (1_500_000_000, "1.4 GiB"),
        (5000 * 2**40, "5000 TiB"),
    ],
)
def test_a_size_is_formatted_in_the_largest_unit_it_fills(size: int, text: str) -> None:
    assert format_bytes(size) == text


@pytest.mark.parametrize("size", [1, 1024, 3 * 2**29, 8 * 2**30, 2**40])
def test_a_formatted_size_parses_back(size: int) -> None:
    assert parse_bytes(format_bytes(size)) == size
