import pytest

from modum.units import format_amount, format_seconds, format_speed, parse_seconds, parse_speed


@pytest.mark.parametrize(
    ("text", "speed"),
    [("7GB/s", 7e9), ("10Gbit/s", 1.25e9), ("1 gbit/s", 125e6), ("100Mbit", 12.5e6), ("800bit/s", 100), ("5MBps", 5e6)],
)
def test_speeds(text: str, speed: float) -> None:
    assert parse_speed(text) == pytest.approx(speed)


@pytest.mark.parametrize("text", ["10", "fast", "0GB/s", "-1GB/s", "10GiB/s", "", "10Gb/s", "10Gbps", "10gb/s"])
def test_what_is_no_speed(text: str) -> None:
    with pytest.raises(ValueError, match="10Gbit/s"):
        parse_speed(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("200ms", 0.2), ("50us", 50e-6), ("2", 2.0), ("1.5 s", 1.5), ("5min", 300.0), ("1h", 3600.0)]
)
def test_times(text: str, seconds: float) -> None:
    assert parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["soon", "5 days", "-1s", ""])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="200ms"):
        parse_seconds(text)


def test_what_is_shown() -> None:
    assert format_speed(16e9) == "16 GB/s (128 Gbit/s)"
    assert format_amount(3.2e9) == "3.2 GB"
    assert format_amount(999) == "999 B"
    assert [format_seconds(t) for t in (0, 2e-5, 0.0123, 4.56, 100, 7560)] == [
        "0 s",
        "20 us",
        "12.3 ms",
        "4.56 s",
        "100 s",
        "2.1 h",
    ]
