"""What clients have a server keep is counted, and lists of it come in pages."""

import socket
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from modum.box import Box, Server
from modum.box.client.connection import Connection
from modum.box.client.endpoint import Endpoint
from modum.box.protocol.frames import Header, Op
from modum.box.protocol.limits import CHUNK, MAX_MESSAGE, MAX_META, PAGE_BYTES, SMALL_CHANGE
from modum.box.protocol.messages import Welcome
from modum.box.server.budget import Budget
from modum.box.server.pages import first_page
from modum.box.server.sessions import Reply, Session, Slot
from modum.errors import PoolFullError


def test_small_change_is_free_and_more_counts() -> None:
    budget = Budget(1000)
    budget.take("a value", notes=SMALL_CHANGE)
    assert budget.used == 0
    budget.take("another", notes=600)
    budget.take("a buffer", buffers=400)
    assert budget.used == 1000
    for kind in ({"notes": 1}, {"buffers": 1}):
        with pytest.raises(PoolFullError, match=r"it needs 1 B here, 0 B of the pool's 1000 B are free"):
            budget.take("it", **kind)  # type: ignore[arg-type]
    budget.take("less", notes=-1)
    assert budget.used == 999


MIB = bytes(1 << 20)


def test_what_is_said_of_buffers_counts() -> None:
    with Server(memory=2 << 20) as server, Box.connect(server.address, transport="tcp", timeout=10) as box:
        for number in range(16):
            box.create(f"b{number}", 1, meta={"m": MIB})
        used = server.statistics().used
        box.create("c", 1, meta={"m": MIB})
        assert server.statistics().used - used > len(MIB)
        with pytest.raises(PoolFullError, match="buffer 'd' needs"):
            box.create("d", 1, meta={"m": MIB})
        box.delete("c")
        box.create("d", 1, meta={"m": MIB})


def test_values_count_and_are_given_back() -> None:
    with Server(memory=1 << 20) as server, Box.connect(server.address, transport="tcp", timeout=10) as box:
        half = bytes(len(MIB) // 2 - 8)
        for number in range(34):
            box.value(f"v{number}").set(half)
        with pytest.raises(PoolFullError, match="value 'w' needs"):
            box.value("w").set(half)
        assert box.value("w").get() is None
        assert server.statistics().used > 0
        for number in range(34):
            box.value(f"v{number}").delete()
        assert server.statistics().used == 0


def test_a_list_that_is_longer_than_a_message_comes_in_pages(box: Box) -> None:
    names = [f"b{number:02}" for number in range(20)]
    for name in names:
        box.create(name, 1, meta={"m": bytes(1 << 20)})
    assert [info.name for info in box.list()] == names
    box.create("large", 1, meta={"m": bytes(MAX_META - 16)})
    assert [info.name for info in box.list()] == [*names, "large"]
    assert list(first_page([PAGE_BYTES, 1], lambda size: size)) == [PAGE_BYTES]
    assert list(first_page([1, 1], lambda size: size)) == [1, 1]


def test_what_is_said_of_a_buffer_is_less_than_a_message(box: Box) -> None:
    """With what goes before it in a page, it would be an answer that nobody can take."""
    box.create("a", 1, meta={"m": bytes(PAGE_BYTES - 200)})
    for nbytes in (MAX_META, MAX_MESSAGE - 400):
        with pytest.raises(ValueError, match=rf"meta has \d+ bytes, the limit is {MAX_META}"):
            box.create("b", 1, meta={"m": bytes(nbytes)})
    assert [info.name for info in box.list()] == ["a"]


def test_a_slot_keeps_as_much_as_has_come(server: Server) -> None:
    slot = Slot(Session("a", 0.0), 0)
    assert slot.working == 0
    for sequence in range(1, 9):
        assert len(slot.room(sequence, 5)) == 5
    assert slot.working == 4 * 8
    slot.room(1, CHUNK)
    assert slot.working == CHUNK + 3 * 8
    with Box.connect(server.address, transport="tcp", timeout=10) as box:
        box.create("b", 1).add(np.ones(1, np.float32))
        assert server.statistics().working < 1000
        box.value("v").set(MIB[16:])
        for _ in range(5):
            box.value("v").get()  # the last four answers may be asked for again
        assert 4 * len(MIB[16:]) <= server.statistics().working < 4 * len(MIB) + 1000


def test_clients_that_take_turns_need_no_more_than_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an operation leaves with the server goes when another client needs it, and only then."""
    numbers = np.ones(4 * CHUNK // 4, np.float32)
    monkeypatch.setattr("modum.box.server.core.MIN_WORKING", 6 * CHUNK)
    with Server(memory=16 * CHUNK) as server, ExitStack() as stack:
        boxes = [stack.enter_context(Box.connect(server.address, transport="tcp", timeout=10)) for _ in range(5)]
        buffers = [box.open_or_create("large", numbers.size) for box in boxes]
        for turn in range(2):
            for buffer in buffers:
                buffer.add(numbers)
                assert buffer.read().max() > turn * len(buffers)
                assert 4 * CHUNK <= server.statistics().working <= 6 * CHUNK
        assert buffers[0].read().tolist() == [10.0] * numbers.size


def test_a_slot_gives_nothing_back_that_may_be_asked_for_again() -> None:
    slot = Slot(Session("a", 0.0), 0)
    slot.begin()
    slot.room(1, CHUNK)
    slot.replies.remember(1, Reply(Header(Op.CALL, 1), b"answer"))
    slot.shrink()
    slot.settle(0)  # the client has not got it yet
    slot.shrink()
    assert slot.replies.reply_to(1).payload == b"answer"
    slot.settle(1)
    slot.begin()
    slot.shrink()
    assert slot.working == CHUNK + len(b"answer")
    slot.settle(1)
    slot.shrink()
    assert slot.working == 0


@pytest.mark.parametrize("act", ["read", "add"])
def test_what_all_slots_keep_together_is_limited_and_who_has_room_goes_on(
    act: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = np.ones(4 * CHUNK // 4, np.float32)
    monkeypatch.setattr("modum.box.server.core.MIN_WORKING", 6 * CHUNK)
    monkeypatch.setattr("modum.box.server.sessions.Slot.settle", lambda slot, sequence: None)
    with Server(memory=16 * CHUNK) as server, ExitStack() as stack:
        first, second = (
            stack.enter_context(Box.connect(server.address, transport="tcp", timeout=10)) for _ in range(2)
        )
        large = first.create("large", numbers.size)
        large.add(numbers)
        other = second.open("large")
        with pytest.raises(PoolFullError, match=r"connections keep .* 6 MiB are the most .*\nHINT: .*--memory"):
            other.read() if act == "read" else other.add(numbers)
        large.add(numbers)
        assert server.statistics().working <= 6 * CHUNK
        first.close()
        other.write(numbers)  # the connection that was refused something goes on, too
        assert other.read().sum() == numbers.size


def test_who_is_refused_in_the_middle_of_sending_hears_it_and_does_not_try_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server closes with numbers unread, which resets the connection: what it said before must be read."""
    connects: list[object] = []
    connect, dial, listen = Connection.connect, Endpoint.dial, socket.create_server

    def counted(self: Connection, timeout: float, phase: object, *, risky: bool = False) -> Welcome:
        connects.append(phase)
        return connect(self, timeout, phase, risky=risky)

    def with_little_room(self: Endpoint, timeout: float) -> socket.socket:
        connection = dial(self, timeout)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, CHUNK // 16)
        return connection

    monkeypatch.setattr("modum.box.server.core.MIN_WORKING", CHUNK // 4)

    def with_little_room_there(*arguments: Any, **options: Any) -> socket.socket:
        listener = listen(*arguments, **options)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, CHUNK // 16)
        return listener

    monkeypatch.setattr(Endpoint, "dial", with_little_room)
    monkeypatch.setattr(socket, "create_server", with_little_room_there)
    with Server(memory=CHUNK) as server, Box.connect(server.address, transport="tcp", timeout=10) as box:
        buffer = box.create("b", CHUNK // 8)
        monkeypatch.setattr(Connection, "connect", counted)
        for _ in range(50):
            with pytest.raises(PoolFullError):
                buffer.write(np.ones(buffer.size, np.float32))
        assert len(connects) == 49  # before each, the connection that was refused something is settled
