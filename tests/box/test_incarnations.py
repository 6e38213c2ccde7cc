"""A buffer's parts belong together, whoever dies while it is made or deleted, and whoever races for its name."""

import itertools
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pytest
from tests.box.parties import box_of, raw_transport
from tests.box.processes import client_process, line_of

from modum.box import Box, Buffer, Server
from modum.box.fanout import Fanout
from modum.box.protocol.layout import home_of
from modum.box.protocol.messages import Create, Delete, Doom, Doomed, Open, SegmentInfo
from modum.box.transport import Attachment
from modum.errors import BufferExistsError, BufferNotFoundError, DeadlineError, ModumError, PoolFullError

SERVERS = 3
MEMORY = 64 << 20
SIZE = 3 * 16384  # float32: 64 KiB, which is one stripe, on each server

DIES_AT_A_REQUEST = """
import os, signal, sys
from tests.box.parties import box_of
addresses, act, step = sys.argv[1].split(","), sys.argv[2], int(sys.argv[3])
left = step
with box_of(addresses) as (box, fanout):
    for transport in fanout.transports:
        def dying(*request, call=transport.call):
            global left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return call(*request)
        transport.call = dying
    box.create("b", 3 * 16384) if act == "create" else box.delete("b")
    print("done in", step - left)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@contextmanager
def running(*memories: int) -> Iterator[list[Server]]:
    """Memory servers with pools of so many bytes."""
    with ExitStack() as stack:
        yield [stack.enter_context(Server(memory=memory, grace=0.2)) for memory in memories]


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    """Memory servers of one box."""
    with running(*[MEMORY] * SERVERS) as several:
        yield several


@pytest.fixture
def parts_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[Buffer], list[SegmentInfo]]:
    """What a buffer that is made or opened in this process took for its parts."""
    taken: dict[Buffer, list[SegmentInfo]] = {}

    class Noted(Buffer):
        def __init__(
            self, servers: Fanout, attachments: Sequence[Attachment], closed: Callable[[Buffer], None]
        ) -> None:
            super().__init__(servers, attachments, closed)
            taken[self] = [attachment.info for attachment in attachments]

    monkeypatch.setattr("modum.box.box.Buffer", Noted)
    return taken.__getitem__


def addresses(servers: list[Server]) -> list[str]:
    return [server.address for server in servers]


def used(servers: list[Server]) -> list[int]:
    return [server.statistics().used for server in servers]


@pytest.mark.parametrize("first", ["delete", "create", "open_or_create"])
@pytest.mark.parametrize("step", range(SERVERS + 4))
@pytest.mark.parametrize("act", ["create", "delete"])
def test_a_name_outlives_whoever_dies_while_it_is_made_or_deleted(
    servers: list[Server], act: str, step: int, first: str
) -> None:
    with Box.connect(addresses(servers), transport="tcp", timeout=10) as box:
        if act == "delete":
            box.create("b", SIZE).write(np.ones(SIZE, np.float32))
        with client_process(DIES_AT_A_REQUEST, ",".join(addresses(servers)), act, str(step)) as process:
            said = line_of(process)
            assert process.wait() == -signal.SIGKILL
        assert (said != "") == (step >= SERVERS + 1), said
        # the home decides: its part is made first, and goes first
        there = (step > 0) == (act == "create")
        if first == "delete":
            if there:
                box.delete("b")
            with pytest.raises(BufferNotFoundError):
                box.delete("b")
            assert used(servers) == [0, 0, 0]
        elif first == "open_or_create":
            seen = box.open_or_create("b", SIZE).read()
            np.testing.assert_array_equal(seen, np.full(SIZE, there and act == "delete", np.float32))
            box.delete("b")
        elif there:
            with pytest.raises(BufferExistsError):
                box.create("b", SIZE)
            box.delete("b")
        again = box.open_or_create("b", SIZE)
        again.write(np.full(SIZE, 2, np.float32))
        np.testing.assert_array_equal(box.open("b").read(), np.full(SIZE, 2, np.float32))
        box.delete("b")
        with pytest.raises(BufferNotFoundError):
            box.open("b")
        assert used(servers) == [0, 0, 0]


def test_a_buffer_deletes_itself_and_no_newer_one_of_its_name(servers: list[Server]) -> None:
    with (
        Box.connect(addresses(servers), timeout=10) as box,
        Box.connect(addresses(servers), transport="tcp", timeout=10) as other,
    ):
        old = box.create("b", SIZE)
        other.delete("b")
        new = other.create("b", SIZE)
        new.add(np.ones(SIZE, np.float32))
        with pytest.raises(BufferNotFoundError, match="'b' was deleted, and another one was made"):
            old.delete()
        assert np.unique(box.open("b").read()).tolist() == [1.0]
        new.delete()
        with pytest.raises(BufferNotFoundError, match="no buffer 'b'"):
            new.delete()
        assert box.list() == []


def test_clients_that_race_for_a_name_never_get_parts_of_two_buffers(
    servers: list[Server], parts_of: Callable[[Buffer], list[SegmentInfo]]
) -> None:
    def race(number: int) -> int:
        turns, whole = np.random.default_rng(number), 0
        with Box.connect(addresses(servers), transport="local" if number else "tcp", timeout=10) as box:
            for turn in range(150):
                try:
                    match turns.integers(3):
                        case 0:
                            buffer = box.create("b", SIZE, meta={"by": [number, turn]})
                        case 1:
                            buffer = box.open("b")
                        case _:
                            box.delete("b")
                            continue
                    parts = parts_of(buffer)
                    assert len(parts) == SERVERS
                    assert len({part.meta for part in parts}) == 1
                    buffer.write(np.full(SIZE, turn, np.float32))
                    whole += 1
                except (BufferExistsError, BufferNotFoundError):
                    pass
        return whole

    with ThreadPoolExecutor(3) as racers:
        assert sum(racers.map(race, range(3)))
    with Box.connect(addresses(servers), transport="tcp", timeout=10) as box:
        try:
            box.delete("b")
        except BufferNotFoundError:
            pass
    assert used(servers) == [0, 0, 0]


def test_a_part_that_an_older_buffer_has_left_is_replaced(
    servers: list[Server], parts_of: Callable[[Buffer], list[SegmentInfo]]
) -> None:
    with box_of(addresses(servers)) as (box, fanout):
        home = fanout.home("b")
        left = Create("b", [SIZE], "float32", 4 * SIZE, 1 << 16, b"\x80", 1)
        for server in set(range(SERVERS)) - {home}:
            fanout.call(server, left, SegmentInfo)
        spare = next(f"x{k}" for k in range(99) if fanout.home(f"x{k}") == home)
        box.create(spare, 1)  # so that the home's next incarnation is a later one
        box.delete(spare)
        buffer = box.create("b", SIZE)
        there = [fanout.call(server, Open("b"), SegmentInfo) for server in range(SERVERS)]
        assert parts_of(buffer) == there
        assert len({part.incarnation for part in there}) == 1
        box.delete("b")
        assert used(servers) == [0, 0, 0]


@pytest.mark.parametrize("step", range(1, SERVERS + 1))
def test_a_buffer_that_is_deleted_while_it_is_made_is_given_back(servers: list[Server], step: int) -> None:
    with (
        box_of(addresses(servers)) as (box, fanout),
        Box.connect(addresses(servers), transport="tcp", timeout=10) as other,
        pytest.MonkeyPatch.context() as patch,
    ):
        call, steps = fanout.call, itertools.count()

        def disturbed(server: int, request: Any, kind: Any) -> Any:
            if next(steps) == step:
                other.delete("b")
            return call(server, request, kind)

        patch.setattr(fanout, "call", disturbed)
        with pytest.raises(BufferNotFoundError, match="buffer 'b' was deleted meanwhile"):
            box.create("b", SIZE)
        assert used(servers) == [0, 0, 0]


def test_a_buffer_that_cannot_be_made_whole_leaves_nothing() -> None:
    name = next(f"x{k}" for k in range(99) if home_of(f"x{k}", SERVERS) == 0)
    with (
        running(MEMORY, MEMORY, 1 << 16) as servers,  # the last one has no room for a part with its trailer
        Box.connect(addresses(servers), transport="tcp", timeout=10) as box,
    ):
        with pytest.raises(PoolFullError):
            box.create(name, 100 << 20)
        assert used(servers) == [0, 0, 0]
        with pytest.raises(PoolFullError):
            box.create(name, SIZE)
        assert used(servers) == [0, 0, 0]


def test_a_buffer_that_may_have_been_made_is_not_taken_from_who_opened_it(servers: list[Server]) -> None:
    """The answer to its maker is lost; meanwhile somebody has found it whole."""
    with (
        box_of(addresses(servers)) as (box, fanout),
        Box.connect(addresses(servers), transport="tcp", timeout=10) as other,
        pytest.MonkeyPatch.context() as patch,
    ):
        call = fanout.call

        def disturbed(server: int, request: Any, kind: Any) -> Any:
            answer = call(server, request, kind)
            if isinstance(request, Create) and request.incarnation:
                other.open("b").add(np.ones(SIZE, np.float32))
                raise DeadlineError("no answer")
            return answer

        patch.setattr(fanout, "call", disturbed)
        with pytest.raises(DeadlineError):
            box.create("b", SIZE)
        np.testing.assert_array_equal(other.open("b").read(), np.ones(SIZE, np.float32))


def test_a_server_keeps_the_newest_part_and_deletes_none_that_is_newer_than_it_is_told(server: Server) -> None:
    with raw_transport(server.address) as transport:

        def create(incarnation: int) -> SegmentInfo:
            request = Create("b", [4], "float32", 16, 16, b"\x80", incarnation)
            return transport.call(request, SegmentInfo, 10)

        def delete(incarnation: int) -> None:
            transport.call(Delete("b", incarnation), type(None), 10)

        def doomed() -> int:
            return transport.call(Doomed("b"), int, 10)

        with pytest.raises(BufferNotFoundError):
            transport.call(Doom("b"), int, 10)
        own = create(0)
        assert (own.incarnation, own.segment) == (1, 1)
        delete(1)  # frees no name that is not doomed
        assert transport.call(Open("b"), SegmentInfo, 10).incarnation == 1
        assert doomed() == 0
        assert transport.call(Doom("b"), int, 10) == doomed() == 1
        with pytest.raises(BufferNotFoundError):
            transport.call(Open("b"), SegmentInfo, 10)
        with pytest.raises(BufferExistsError):
            create(0)
        delete(0)
        assert doomed() == 1
        delete(1)
        assert doomed() == 0
        assert create(7).incarnation == 7
        memory = server.statistics().used
        assert create(7).segment == create(7).segment
        with pytest.raises(BufferNotFoundError, match="was deleted while it was being made"):
            create(6)
        assert create(8).incarnation == 8
        assert server.statistics().used == memory
        delete(7)
        assert transport.call(Open("b"), SegmentInfo, 10).incarnation == 8
        delete(8)
        assert server.statistics().used == 0
        with pytest.raises(ModumError):
            transport.call(Open("c"), SegmentInfo, 10)
