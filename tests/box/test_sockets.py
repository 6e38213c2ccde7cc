"""Addresses of memory servers."""

from pathlib import Path

import pytest

from modum.box import Box, Server
from modum.box.sockets import format_address, local_host, parse_address
from modum.errors import TransportError


def test_addresses_are_read_as_people_write_them() -> None:
    assert parse_address("10.0.0.5") == ("10.0.0.5", 7500)
    assert parse_address("host:80") == ("host", 80)
    assert parse_address("[::1]:7501") == ("::1", 7501)
    assert parse_address("[::1]") == ("::1", 7500)
    for bad in ("", ":7500", "host:", "host:0", "host:70000", "host:x"):
        with pytest.raises(ValueError, match="write host:port"):
            parse_address(bad)
    for bad, right in (("http://host:80/box", "host:80"), ("tcp://host", "host"), ("/run/modum", "127.0.0.1:7500")):
        with pytest.raises(ValueError, match=f"a URL or a path. HINT: write {right}$"):
            parse_address(bad)


def test_what_is_no_address_is_refused_before_any_server_is_waited_for() -> None:
    with pytest.raises(ValueError, match="HINT: write host:80"):
        Box.connect(["192.0.2.1:7500", "http://host:80"])  # the first one would be waited for


def test_addresses_are_written_as_they_are_read() -> None:
    for address in ("10.0.0.5:7500", "[::1]:7501", "host:80"):
        assert format_address(*parse_address(address)) == address


def test_a_process_that_cannot_read_proc_has_no_local_transport_and_says_why(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as without:
        without.setattr("modum.box.sockets.Path", lambda path: tmp_path / path.lstrip("/"))
        assert local_host() == ""
        with pytest.raises(TransportError, match="this process cannot read /proc"):
            Box.connect(server.address, transport="local")
        with Box.connect(server.address) as box:
            assert box.transports == ("tcp",)
            assert box.counter("c").add(1) == 0
    with monkeypatch.context() as without:
        without.setattr("modum.box.server.server.local_host", lambda: "")
        with Server() as blind, pytest.raises(TransportError, match="the server cannot read its /proc"):
            Box.connect(blind.address, transport="local")
