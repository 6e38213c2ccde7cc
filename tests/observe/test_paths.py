"""What the doctor measures of a box."""

import socket

from modum.box import Box, Server
from modum.box.transport import TRANSPORTS
from modum.observe.paths import measure_paths


def test_every_path_to_every_server_is_measured_and_nothing_stays_there() -> None:
    with Server(memory=80 << 20) as one, Server(memory=80 << 20) as two, Box.connect([one.address, two.address]) as box:
        box.create("theirs", 10)
        paths = measure_paths(box.servers, token=None)
        assert [(path.server, path.transport) for path in paths] == [
            (server, transport) for server in box.servers for transport in TRANSPORTS
        ]
        for path in paths:
            if reason := TRANSPORTS[path.transport].why_not():
                assert path.reason == reason
                assert path.row().finding == f"cannot be used: {reason}"
            else:
                assert path.reason is None
                assert path.bandwidth is not None
                assert 0 < path.bandwidth.small_read_seconds < 64 / 1e3
                assert min(path.bandwidth.read_bytes_per_second, path.bandwidth.add_bytes_per_second) > 1e6
                assert "GB/s read" in path.row().finding
            assert not path.row().trouble
        assert [info.name for info in box.list()] == ["theirs"]
        assert [server.clients for server in box.statistics().servers] == [1, 1]


def test_a_server_that_is_not_there_or_has_no_room_is_told_once_and_the_others_are_measured() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with Server(memory=1 << 20) as small:
            silent, full = measure_paths([address, small.address], token=None, timeout=0.3)
    assert silent.row().topic == address
    assert "did not" in silent.row().trouble or "could not be reached" in silent.row().trouble
    assert full.row().trouble.startswith("buffer 'modum/measure/")
    assert "1 MiB are free" in full.row().trouble
