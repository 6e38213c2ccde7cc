"""Parse and format amounts, speeds and times as people write them: `8GiB`, `1.5GB`, `10Gbit/s`, `200ms`."""

import re

__all__ = [
    "count",
    "format_amount",
    "format_bytes",
    "format_seconds",
    "format_speed",
    "parse_bytes",
    "parse_seconds",
    "parse_speed",
]

_BINARY = ("KiB", "MiB", "GiB", "TiB")
_UNITS = {
    "": 1,
    "b": 1,
    **{unit.lower(): 1024**power for power, unit in enumerate(_BINARY, start=1)},
    **{unit: 1000**power for power, unit in enumerate(("kb", "mb", "gb", "tb"), start=1)},
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([a-z]*)", re.ASCII)
_PREFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
_SPEED = re.compile(r"(\d+(?:\.\d+)?) ?([kmgtKMGT]?)((?i:bit)|B)(?:/s|ps)?", re.ASCII)
_TIMES = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "": 1.0, "min": 60.0, "h": 3600.0}
_TIME = re.compile(r"(\d+(?:\.\d+)?) ?([a-z]*)", re.ASCII)


def parse_bytes(text: str) -> int:
    """Return the number of bytes that `text` says, rounded down.

    Args:
        text: a number and a unit. `KiB, MiB, GiB, TiB` are powers of 1024 and `KB, MB, GB, TB` powers of 1000, in
            upper or lower case; a number alone is bytes.

    Returns:
        Bytes, at least 1.

    Raises:
        ValueError: `text` is anything else, or less than one byte.
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
    """Return `size` in the largest binary unit that it fills, with at most one decimal: `8 GiB`, `1.5 MiB`."""
    number, unit = float(size), "B"
    for larger in _BINARY:
        if round(number, 1) < 1024:
            break
        number, unit = number / 1024, larger
    return f"{number:.1f}".removesuffix(".0") + f" {unit}"


def parse_speed(text: str) -> float:
    """Return the bytes per second that `text` says.

    Args:
        text: a number and a unit: `7GB/s`, `10Gbit/s`; powers of 1000. A lower-case `b` alone is refused: `10Gb/s` is
            bits to some and bytes to others.

    Returns:
        Bytes per second, greater than 0.

    Raises:
        ValueError: `text` is not a speed, or not greater than 0.
    """
    match = _SPEED.fullmatch(text.strip())
    speed = 0.0
    if match:
        speed = float(match[1]) * _PREFIXES[match[2].lower()] / (1 if match[3] == "B" else 8)
    if not speed:
        raise ValueError(f"{text!r} is not a speed; write it like 10Gbit/s (bits) or 7GB/s (bytes)")
    return speed


def parse_seconds(text: str) -> float:
    """Return the seconds that `text` says.

    Args:
        text: a number and a unit: `200ms`, `50us`, `2s`, `5min`, `1h`; a number alone is seconds.

    Returns:
        Seconds.

    Raises:
        ValueError: `text` is not a time.
    """
    match = _TIME.fullmatch(text.strip().lower())
    if match is None or match[2] not in _TIMES:
        raise ValueError(f"{text!r} is not a time; write it like 200ms, 50us, 2s, 5min or 1h")
    return float(match[1]) * _TIMES[match[2]]


def format_speed(speed: float) -> str:
    """Return a speed in bytes per second as bytes and bits: `16 GB/s (128 Gbit/s)`."""
    return f"{_scaled(speed)}B/s ({_scaled(8 * speed)}bit/s)"


def format_amount(nbytes: float) -> str:
    """Return bytes in powers of 1000: `3.2 GB`."""
    return f"{_scaled(nbytes)}B"


def format_seconds(seconds: float) -> str:
    """Return seconds in a unit that suits them: `12.3 ms`, `4.56 s`, `2.1 h`."""
    if seconds == 0:
        return "0 s"
    for unit, size in (("us", 1e-6), ("ms", 1e-3), ("s", 1.0)):
        if seconds < 999.5 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.0f} s" if seconds < 2 * 3600 else f"{seconds / 3600:.1f} h"


def _scaled(number: float) -> str:
    power = 0
    while number >= 999.5 and power < len(_PREFIXES) - 1:
        number, power = number / 1000, power + 1
    return f"{number:.3g} {('', 'k', 'M', 'G', 'T')[power]}"


def count(number: int, thing: str) -> str:
    """Return `number` with the name of what is counted, as in `1 worker` and `2 workers`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
