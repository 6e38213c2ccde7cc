"""Amounts of memory as people write them: `8GiB`, `1.5GB`, `4096`."""

import re

__all__ = ["format_bytes", "parse_bytes"]

_BINARY = ("KiB", "MiB", "GiB", "TiB")
_UNITS = {
    "": 1,
    "b": 1,
    **{unit.lower(): 1024**power for power, unit in enumerate(_BINARY, start=1)},
    **{unit: 1000**power for power, unit in enumerate(("kb", "mb", "gb", "tb"), start=1)},
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([a-z]*)", re.ASCII)


def parse_bytes(text: str) -> int:
    """The number of bytes that `text` says, rounded down.

    `KiB, MiB, GiB, TiB` are powers of 1024 and `KB, MB, GB, TB` powers of 1000, in either case of letters;
    a number alone is bytes. Raises `ValueError` for anything else, and for less than one byte.
    """
    match = _SIZE.fullmatch(text.strip().lower())
    if match is None or match[2] not in _UNITS:
        raise ValueError(f"{text!r} is not an amount of memory; write it like 512MiB, 1.5GB or 4096 (bytes)")
    # Whole numbers stay whole: a float would round large ones.
    number = float(match[1]) if "." in match[1] else int(match[1])
    size = int(number * _UNITS[match[2]])
    if size < 1:
        raise ValueError(f"{text!r} is less than one byte; write an amount of memory like 512MiB or 8GiB")
    return size


def format_bytes(size: int) -> str:
    """`size` in the largest binary unit that it fills, with at most one decimal: `8 GiB`, `1.5 MiB`."""
    number, unit = float(size), "B"
    for larger in _BINARY:
        if round(number, 1) < 1024:
            break
        number, unit = number / 1024, larger
    return f"{number:.1f}".removesuffix(".0") + f" {unit}"
