"""Addresses of memory servers."""

import pytest

from modum.box.sockets import format_address, parse_address


def test_addresses_are_read_as_people_write_them() -> None:
    assert parse_address("10.0.0.5") == ("10.0.0.5", 7500)
    assert parse_address("host:80") == ("host", 80)
    assert parse_address("[::1]:7501") == ("::1", 7501)
    assert parse_address("[::1]") == ("::1", 7500)
    for bad in ("", ":7500", "host:", "host:0", "host:70000", "host:x"):
        with pytest.raises(ValueError, match="write host:port"):
            parse_address(bad)


def test_addresses_are_written_as_they_are_read() -> None:
    for address in ("10.0.0.5:7500", "[::1]:7501", "host:80"):
        assert format_address(*parse_address(address)) == address
