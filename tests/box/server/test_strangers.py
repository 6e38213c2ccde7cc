"""Who is at the door has a place and a time, and cannot keep others out."""

import socket
import threading

import numpy as np
import pytest

from modum.box import Box, Server
from modum.box.protocol.limits import MAX_STRANGERS
from modum.box.server.strangers import Strangers
from modum.box.sockets import parse_address


class Line:
    """A connection that notes whether it was hung up."""

    def __init__(self) -> None:
        self.up = True

    def shutdown(self, how: int) -> None:
        self.up = False


class Clock:
    """Stands still until it is moved."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_oldest_of_the_busiest_place_goes() -> None:
    strangers = Strangers(4, 10, Clock())
    lines = [Line() for _ in range(8)]
    for line, place in zip(lines, "aabbbacb", strict=True):
        strangers.admit(line, place)
        assert len(strangers) <= 4
    # from the fifth on one goes: the first b, the first a, the second a (of two and two, the oldest), the second b
    assert [line.up for line in lines] == [False] * 4 + [True] * 4


def test_one_that_comes_alone_stays_among_many_of_another_place() -> None:
    strangers = Strangers(4, 10, Clock())
    alone, many = Line(), [Line() for _ in range(50)]
    strangers.admit(alone, "a")
    for line in many:
        strangers.admit(line, "b")
    assert alone.up
    assert [line.up for line in many] == [False] * 47 + [True] * 3


def test_who_has_come_in_makes_room_and_is_not_hung_up_on() -> None:
    clock = Clock()
    strangers = Strangers(1, 10, clock)
    first, second = Line(), Line()
    strangers.admit(first, "a")
    strangers.known(first)
    strangers.known(first)
    strangers.admit(second, "a")
    clock.now += 10
    strangers.hang_up_late_ones()
    assert (first.up, second.up, len(strangers)) == (True, False, 0)


def test_the_time_of_a_handshake_runs_from_its_beginning() -> None:
    clock = Clock()
    strangers = Strangers(8, 10, clock)
    early, late = Line(), Line()
    strangers.admit(early, "a")
    clock.now += 6
    strangers.admit(late, "a")
    clock.now += 5
    strangers.hang_up_late_ones()
    assert (early.up, late.up) == (False, True)


@pytest.mark.parametrize("transport", ["tcp", "local"])
def test_silent_connections_keep_nobody_out(server: Server, transport: str) -> None:
    address = parse_address(server.address)
    silent = [socket.create_connection(address, 5) for _ in range(2 * MAX_STRANGERS)]
    try:
        with Box.connect(server.address, transport=transport, timeout=10) as box:
            box.create("b", 8).add(np.ones(8, np.float32))
            assert box.open("b").read().tolist() == [1] * 8
    finally:
        for connection in silent:
            connection.close()


def test_a_thread_that_cannot_be_started_costs_one_connection(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start, refused = threading.Thread.start, threading.Event()

    def limited(thread: threading.Thread) -> None:
        if thread.name == "modum-connection" and not refused.is_set():
            refused.set()
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    with Box.connect(server.address, transport="tcp", timeout=10) as box:
        assert refused.is_set()
        assert box.statistics().servers[0].faults == 1
    assert "no thread can be started" in caplog.text
