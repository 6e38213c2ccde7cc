"""Tokens with rights of their own: for one job, for looking alone, for a time, and up to so much memory."""

import secrets
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import get_args

import msgspec
import numpy as np
import pytest

from modum.box import Box, Server, new_token
from modum.box.protocol.frames import Op
from modum.box.protocol.layout import Piece
from modum.box.protocol.messages import (
    Create,
    Join,
    Open,
    Publish,
    Reach,
    Request,
    SegmentInfo,
    Version,
    Wake,
    encode,
)
from modum.box.server.rights import NEEDS, READS, allowed, check_frame
from modum.box.tokens import Token, read_tokens, write_tokens
from modum.box.transport import Attachment, Work, open_transport
from modum.errors import AuthenticationError, PoolFullError
from modum.waiting import poll

WHOLE = Token(new_token())
ONE = Token(new_token(), job="one", memory="1MiB")
TWO = Token(new_token(), job="two")
LOOK = Token(new_token(), read_only=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "tokens.json"
    write_tokens(path, [WHOLE, ONE, TWO, LOOK])
    return path


@pytest.fixture
def box(path: Path) -> Iterator["Connect"]:
    """Connects to a server with the tokens."""
    with Server(memory=64 << 20, grace=0.2, tokens=path) as server:
        opened: list[Box] = []

        def connect(token: Token, transport: str = "tcp", **more: str) -> Box:
            opened.append(Box.connect(server.address, token=token.token, transport=transport, timeout=5, **more))  # type: ignore[arg-type]
            return opened[-1]

        yield connect
        for each in opened:
            each.close()


Connect = Callable[..., Box]


def deeds(box: Box) -> list[Callable[[], object]]:
    """Something of each kind that changes a box."""
    return [
        lambda: box.create("new", 4),
        lambda: box.delete("b"),
        lambda: box.counter("c").add(1),
        lambda: box.lock("l", timeout=0),
        lambda: box.queue("q", 3),
        lambda: box.value("v").set(1),
        lambda: box.open("b").write(np.zeros(4, np.float32)),
        lambda: box.open("b").add(np.zeros(4, np.float32)),
        lambda: box.open("b").exchange(np.zeros(4, np.float32), 0.5),
        lambda: box.open("b").scale(2.0),
        lambda: box.snapshot(),
    ]


def test_every_request_and_frame_says_what_it_needs() -> None:
    assert set(NEEDS) == set(get_args(Request))
    for kind, need in NEEDS.items():
        fields = {field.name for field in msgspec.structs.fields(kind)}
        assert need.names == next((each for each in ("name", "prefix", "segment") if each in fields), "nothing"), kind
    harmless = {"Join", "Open", "Doomed", "ListBuffers", "Version", "CounterWait", "ListLeases", "QueueLook"}
    harmless |= {"ValueGet", "Look", "AwaitSnapshot", "Bye"}
    assert {kind.__name__ for kind, need in NEEDS.items() if not need.writes} == harmless
    assert {Op.READ, Op.CALL} == READS
    for op in set(Op) - READS:
        with pytest.raises(AuthenticationError, match="read-only"):
            check_frame(LOOK, op)


def test_a_request_that_nobody_thought_of_is_refused_to_restricted_tokens() -> None:
    class Unheard(msgspec.Struct):
        name: str = "one/x"

    for token in (ONE, LOOK):
        with pytest.raises(AuthenticationError, match="whole box"):
            allowed(token, Unheard(), lambda _: "")  # type: ignore[arg-type]


def test_a_read_only_token_reads_and_changes_nothing(box: Connect) -> None:
    whole = box(WHOLE)
    whole.create("b", 4).write(np.arange(4, dtype=np.float32))
    whole.counter("c").add(7)
    whole.value("v").set("there")
    look = box(LOOK, "auto")
    assert look.transports == ("tcp",)
    np.testing.assert_array_equal(look.open("b").read(), np.arange(4))
    assert (look.counter("c").value, look.value("v").get(), [each.name for each in look.list()]) == (7, "there", ["b"])
    before = look.statistics().servers[0]
    for deed in deeds(look):
        with pytest.raises(AuthenticationError, match="this token is read-only"):
            deed()
    assert look.open("b").version == whole.open("b").version
    assert look.statistics().servers[0].used == before.used
    np.testing.assert_array_equal(whole.open("b").read(), np.arange(4))
    with pytest.raises(Exception, match="read-only, and mapped memory can be written to"):
        box(LOOK, "local")


@pytest.mark.parametrize("transport", ["tcp", "local"])
def test_jobs_with_tokens_of_their_own_neither_see_nor_touch_each_other(box: Connect, transport: str) -> None:
    one, two = box(ONE, transport), box(TWO, transport)
    one.create("b", 4).write(np.ones(4, np.float32))
    lease = one.lock("l")
    one.counter("c").add(5)
    one.queue("q", 2)
    assert [each.name for each in one.list()] == ["b"]
    assert [each.name for each in box(WHOLE).list()] == ["one/b"]
    assert two.list() == []
    assert two.leases() == []
    assert two.counter("c").value == 0
    other = box(TWO, transport, namespace="one")
    for deed in [*deeds(other)[:-1], lambda: other.open("b"), lambda: other.counter("c").value, other.list]:
        with pytest.raises(AuthenticationError, match=r"this token is for job 'two'.*\n?HINT: modum run --name two"):
            deed()
    segment = one.open("b")
    thief = two.create("b", 4)
    np.testing.assert_array_equal(segment.read(), np.ones(4))
    np.testing.assert_array_equal(thief.read(), np.zeros(4))
    lease.release()


def test_a_job_that_guesses_the_number_of_anothers_segment_gets_nothing_by_it(box: Connect) -> None:
    (address,) = box(ONE).servers
    box(ONE).create("b", 4)
    ways = {}
    for who, choice in ((WHOLE, "tcp"), (TWO, "tcp"), (TWO, "local")):
        way = open_transport(
            address, choice=choice, token=who.token, session=secrets.token_bytes(16), threads=1, timeout=5
        )
        way.call(Join([way.server], [address], 0), type(None), 5)
        ways[who.job, choice] = way
    info = ways["", "tcp"].call(Open("one/b"), SegmentInfo, 5)
    thief = ways["two", "tcp"]
    mine = thief.call(Create("two/b", [4], "float32", 16, 16, encode({})), SegmentInfo, 5)
    number = info.segment
    numbers = np.ones(4, np.float32)
    theirs, own, pieces = Attachment(info), Attachment(mine), [Piece(0, 0, 16)]
    works = [Work(op=op, target=theirs, pieces=pieces, data=numbers, factor=1.0, timeout=5) for op in list(Op)[:4]]
    works.append(Work(op=Op.COPY, target=own, source=theirs, pieces=pieces, timeout=5))
    steals: list[Callable[[], object]] = [partial(thief.run, work) for work in works]
    steals += [
        partial(thief.call, request, object, 5)
        for request in (Version(number), Publish(number), Wake(number), Reach(number, 0))
    ]
    steals.append(lambda: ways["two", "local"].attach(info, 5))
    for steal in steals:
        with pytest.raises(AuthenticationError, match="'one/b' does not"):
            steal()
    for way in ways.values():
        way.close()


def test_a_job_takes_no_more_memory_than_its_token_allows(box: Connect) -> None:
    one = box(ONE)
    one.create("half", 1 << 17)
    with pytest.raises(PoolFullError, match=r"(?s)'one/more' needs .* job 'one' may take 1 MiB .* has .*HINT: delete"):
        one.create("more", 1 << 18)
    with pytest.raises(PoolFullError, match="job 'one' may take"):
        one.value("v").set(b"x" * 900_000)
    (owner,) = one.statistics().servers[0].owners
    assert (owner.job, owner.limit) == ("one", 1 << 20)
    assert 1 << 19 <= owner.used < 1 << 20
    box(TWO).create("more", 1 << 18)
    one.delete("half")
    assert one.statistics().servers[0].owners[0].used == 0
    assert [each.job for each in box(WHOLE).statistics().servers[0].owners] == ["one", "two"]


@pytest.mark.parametrize("transport", ["tcp", "local"])
@pytest.mark.parametrize("end", ["revoked", "expired", "taken out"])
def test_a_token_that_ends_ends_its_connections(box: Connect, path: Path, transport: str, end: str) -> None:
    one, two = box(ONE, transport), box(TWO, transport)
    buffer = one.create("b", 4)
    changed = msgspec.structs.replace(ONE, revoked=end == "revoked", expires=time.time() * (end == "expired"))
    write_tokens(path, [WHOLE, TWO, *([] if end == "taken out" else [changed])])
    kept = two.create("b", 4)

    def refused() -> bool:
        try:
            buffer.add(np.ones(4, np.float32))
        except AuthenticationError as error:
            return "modum token make one" in str(error) or "wrong token" in str(error)
        return False

    poll(refused, timeout=10, every=0.01, error=lambda: AssertionError("the connection goes on"))
    with pytest.raises(AuthenticationError, match="wrong token" if end == "taken out" else f"{end}.*|HINT"):
        box(ONE, transport)
    kept.add(np.ones(4, np.float32))


def test_a_file_that_is_broken_changes_nothing_until_it_is_mended(box: Connect, path: Path) -> None:
    path.write_text("{")
    box(ONE).counter("c").add(1)
    with pytest.raises(ValueError, match=r"is no list of tokens.*\nHINT: modum token make"):
        read_tokens(path)
    path.chmod(0o644)
    with pytest.raises(ValueError, match="others may read it: chmod 600"):
        read_tokens(path)
