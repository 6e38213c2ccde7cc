"""What a server remembers of its clients: the reply cache of a slot, and who is there."""

from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from modum.box.protocol.frames import Header, Op
from modum.box.protocol.limits import MAX_SESSIONS, MAX_SLOTS, WINDOW
from modum.box.protocol.messages import Proof
from modum.box.server.sessions import Caller, Reply, ReplyCache, Session, Sessions, Slot
from modum.errors import ForgottenError, ProtocolError


def reply(sequence: int) -> Reply:
    return Reply(Header(Op.CALL, sequence), b"")


def test_the_replies_of_the_last_window_are_kept() -> None:
    cache = ReplyCache(last=10)
    for sequence in range(11, 11 + WINDOW + 2):
        cache.remember(sequence, reply(sequence))
    assert cache.last == 10 + WINDOW + 2
    for sequence in range(13, 13 + WINDOW):
        assert cache.reply_to(sequence).header.sequence == sequence
    for gone in (12, 11, 3):
        with pytest.raises(ProtocolError, match=f"request {gone} is outside the window that ends at {cache.last}"):
            cache.reply_to(gone)


class Clock:
    """Stands still until it is moved."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class Line:
    """A connection that notes whether it was hung up."""

    def __init__(self) -> None:
        self.up = True

    def shutdown(self, how: int) -> None:
        self.up = False


def proof(slot: int = 0, attempt: int = 1, incarnation: bytes = b"", acknowledged: int = 0) -> Proof:
    return Proof(b"s" * 16, slot, attempt, incarnation, acknowledged, 5.0, b"", b"")


@dataclass
class World:
    """Sessions on a clock of their own."""

    clock: Clock
    ended: list[str]
    sessions: Sessions


@pytest.fixture
def world() -> World:
    clock, ended = Clock(), list[str]()
    return World(clock, ended, Sessions(2, lambda session: ended.append(session.name), lambda: None, clock))


def test_what_a_session_held_goes_back_before_its_name_can_come_again() -> None:
    """What the next one of the name is given must not be taken back for the one before."""
    clock = Clock()
    order: list[str] = []
    sessions = Sessions(2, lambda _: order.append("taken back"), lambda: None, clock)

    class Reconnecting(Line):
        def shutdown(self, how: int) -> None:
            with sessions.entered("a", proof(1, attempt=len(order)), Line()):
                order.append("again")

    with sessions.entered("a", proof(), Reconnecting()) as (slot, _):
        pass
    clock.now += 3
    sessions.end_silent_ones()
    assert order == ["taken back", "again"]
    with sessions.entered("b", proof(), Reconnecting()) as (slot, _):
        sessions.end(slot.session)
        assert order == ["taken back", "again", "taken back", "again"]


def test_rooms_of_a_window_are_different_memory_and_come_again() -> None:
    slot = Slot(Session("a", 0.0), acknowledged=0)
    for sequence in range(1, 1 + WINDOW):
        slot.room(sequence, 4)[:] = bytes([sequence] * 4)
    for sequence in range(1, 1 + WINDOW):
        assert slot.room(sequence + WINDOW, 3) == bytes([sequence] * 3)
    with pytest.raises(ProtocolError, match="never linked"):
        slot.room(1, 4, staged=True)


def test_a_closed_slot_keeps_nothing() -> None:
    slot = Slot(Session("a", 0.0), acknowledged=0)
    slot.room(1, 1000)
    slot.replies.remember(1, Reply(Header(Op.CALL, 1, 5), b"a call"))
    assert slot.working > 1000
    slot.close()
    assert slot.working == 0


def test_a_slot_goes_on_for_who_knows_its_incarnation_alone(world: World) -> None:
    with world.sessions.entered("a", proof(3, acknowledged=7), Line()) as (slot, resumed):
        assert (resumed, slot.replies.last) == (False, 7)
    with world.sessions.entered("a", proof(3, 2, slot.incarnation), Line()) as (again, resumed):
        assert (again, resumed) == (slot, True)
        assert world.sessions.slot(slot.session, 3) is slot
        with pytest.raises(ProtocolError, match="no slot 4"):
            world.sessions.slot(slot.session, 4)
    for wrong in (b"other", bytes(8)):
        with pytest.raises(ForgottenError, match="had given the client up"):
            with world.sessions.entered("a", proof(3, 3, wrong), Line()):
                pass
    world.sessions.end(slot.session)
    assert (world.ended, len(world.sessions)) == (["a"], 0)
    with pytest.raises(ForgottenError):
        with world.sessions.entered("a", proof(3, 4, slot.incarnation), Line()):
            pass
    assert len(world.sessions) == 0


def test_a_client_that_never_heard_of_its_slot_gets_a_new_one(world: World) -> None:
    """The answer that it is there was lost: nothing was asked for in it, and nothing may be taken for resumed."""
    with world.sessions.entered("a", proof(), Line()) as (lost, _):
        pass
    with world.sessions.entered("a", proof(attempt=2), Line()) as (slot, resumed):
        assert slot is not lost
        assert not resumed
        assert slot.incarnation != lost.incarnation


def test_the_newest_connection_wins_and_an_older_one_that_comes_late_is_refused(world: World) -> None:
    first, second = Line(), Line()
    with world.sessions.entered("a", proof(), first) as (slot, _):
        old = Caller(slot, first)
        with world.sessions.entered("a", proof(0, 3, slot.incarnation), second):
            assert (first.up, second.up) == (False, True)
            Caller(slot, second).check()
            with pytest.raises(ConnectionAbortedError):
                old.check()
            with pytest.raises(ProtocolError, match="a newer connection"):
                with world.sessions.entered("a", proof(0, 2, slot.incarnation), Line()):
                    pass
            assert second.up


def test_a_session_without_connections_ends_when_its_grace_is_over(world: World) -> None:
    line = Line()
    with world.sessions.entered("b", proof(), Line()):
        with pytest.raises(OSError, match="broke"):
            with world.sessions.entered("a", proof(), line) as (slot, _):
                raise OSError("it broke between the proof and its answer")
        world.clock.now += 1.9
        world.sessions.end_silent_ones()
        assert world.ended == []
        world.clock.now += 0.2
        world.sessions.end_silent_ones()
        assert world.ended == ["a"]
        with pytest.raises(ConnectionAbortedError):
            Caller(slot, line).check()


def test_a_connection_of_an_ended_session_takes_nothing_from_the_next_of_its_name(world: World) -> None:
    with world.sessions.entered("a", proof(), Line()) as (slot, _):
        world.sessions.end(slot.session)
        again = world.sessions.entered("a", proof(), Line())
        new, _ = again.__enter__()
    assert new.session.connected == 1
    world.clock.now += 10
    world.sessions.end_silent_ones()
    assert world.ended == ["a"]
    again.__exit__(None, None, None)
    world.clock.now += 10
    world.sessions.end_silent_ones()
    assert world.ended == ["a", "a"]


def test_sessions_and_slots_have_limits(world: World) -> None:
    with ExitStack() as stack:

        def enter(name: str, number: int) -> None:
            stack.enter_context(world.sessions.entered(name, proof(number), Line()))

        for number in range(MAX_SLOTS):
            enter("a", number)
        with pytest.raises(ProtocolError, match=f"one client has {MAX_SLOTS} connections already"):
            enter("a", MAX_SLOTS)
        for number in range(MAX_SESSIONS - 1):
            enter(f"b{number}", 0)
        with pytest.raises(ProtocolError, match=f"this server has {MAX_SESSIONS} clients already"):
            enter("c", 0)
