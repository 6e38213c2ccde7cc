"""Contract 1: an acknowledged operation counts exactly once, wherever connections are cut in between."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.box.acts import FIRST, PIECES, add, difference, exchange
from tests.box.cutting import Cut, CuttingProxy

from modum.box import Box, Server
from modum.box.protocol.limits import CHUNK, HEADER_BYTES
from modum.errors import ConnectionLostError

# before the header, inside it, between header and payload, inside the payload, and right behind the frame
POINTS = (0, 10, HEADER_BYTES, HEADER_BYTES + 5000, HEADER_BYTES + 2 * CHUNK)
EVERYWHERE = [
    Cut(way, FIRST + frame, octets) for way in ("up", "down") for frame in (0, 1, PIECES - 1) for octets in POINTS
]


@pytest.mark.parametrize(
    "cut", EVERYWHERE, ids=lambda cut: f"{cut.direction}-frame{cut.frame - FIRST}-byte{cut.octets}"
)
def test_adds_and_exchanges_count_once_when_a_connection_is_cut(patient_server: Server, cut: Cut) -> None:
    for act in (add, exchange, difference):
        with CuttingProxy(patient_server.address, [cut]) as proxy:
            with Box.connect(proxy.address, transport="tcp", timeout=10) as box:
                act(box)
                box.delete("b")
            assert not proxy.left, "the cut was not reached"


cuts = st.builds(
    Cut, st.sampled_from(["up", "down"]), st.integers(0, 5 * PIECES), st.integers(0, HEADER_BYTES + CHUNK + 1)
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(cuts, max_size=8))
def test_any_number_of_cuts_changes_no_sum(patient_server: Server, cuts: list[Cut]) -> None:
    act: Callable[[Box], None]
    for act in (add, exchange):
        with (
            CuttingProxy(patient_server.address, cuts) as proxy,
            Box.connect(proxy.address, transport="tcp", timeout=10) as box,
        ):
            act(box)
            box.delete("b")


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("frame", range(1, 8))
def test_counters_and_queues_move_once(patient_server: Server, direction: str, frame: int) -> None:
    name = f"{direction}{frame}"
    with (
        CuttingProxy(patient_server.address, [Cut(direction, frame, 1000)]) as proxy,
        Box.connect(proxy.address, transport="tcp", timeout=10) as box,
    ):
        counter = box.counter(name)
        queue = box.queue(name, 3)
        assert [counter.add(10) for _ in range(3)] == [0, 10, 20]
        assert [queue.take() for _ in range(3)] == [0, 1, 2]
        assert not proxy.left


def test_a_server_that_has_forgotten_the_client_applies_nothing_again(server: Server) -> None:
    """The reply is lost, and the client comes back only when its session has ended: an error, never a guess."""

    def wait_until_forgotten() -> None:
        while server.statistics().clients:
            pass

    with CuttingProxy(server.address, [Cut("down", FIRST, 0)], before_reconnect=wait_until_forgotten) as proxy:
        with Box.connect(proxy.address, transport="tcp", timeout=10) as box:
            buffer = box.create("b", 10)
            with pytest.raises(ConnectionLostError, match="not known whether its last request was applied"):
                buffer.add(np.ones(10, np.float32))
    with Box.connect(server.address) as other:
        np.testing.assert_array_equal(other.open("b").read(), np.ones(10, np.float32))


def test_a_client_that_was_idle_through_a_lost_connection_goes_on(server: Server) -> None:
    with CuttingProxy(server.address, []) as proxy, Box.connect(proxy.address, transport="tcp", timeout=10) as box:
        buffer = box.create("b", 10)
        proxy.cut_all()
        while server.statistics().clients:
            pass
        buffer.add(np.ones(10, np.float32))
        np.testing.assert_array_equal(buffer.read(), np.ones(10, np.float32))
