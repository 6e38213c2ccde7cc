"""What is measured of a box; the figures themselves depend on the machine."""

import pytest

from modum.box import Box, Server
from modum.errors import PoolFullError
from modum.observe.bandwidth import measure_bandwidth


def test_reads_adds_and_exchanges_have_a_speed_and_leave_nothing() -> None:
    with Server(token="measure") as server, Box.connect(server.address, token="measure", transport="tcp") as box:
        bandwidth = measure_bandwidth(box, 1 << 20)
        speeds = (bandwidth.read_bytes_per_second, bandwidth.add_bytes_per_second, bandwidth.exchange_bytes_per_second)
        assert min(speeds) > 1e6
        assert 0 < bandwidth.small_read_seconds < 10
        assert 0 < bandwidth.small_exchange_seconds < 10
        assert box.list() == []


def test_a_box_without_room_is_told() -> None:
    with Server(memory=1 << 20) as server, Box.connect(server.address, transport="tcp") as box:
        with pytest.raises(PoolFullError, match="modum/measure/"):
            measure_bandwidth(box)
