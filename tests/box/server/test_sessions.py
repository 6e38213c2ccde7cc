"""What a server remembers of its clients: the reply cache of a slot, and who is there."""

import time

import pytest

from modum.box.protocol.frames import Header, Op
from modum.box.protocol.limits import MAX_SESSIONS, MAX_SLOTS, WINDOW
from modum.box.server.sessions import Reply, ReplyCache, Sessions, Slot
from modum.errors import ProtocolError


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


def test_rooms_of_a_window_are_different_memory_and_come_again() -> None:
    slot = Slot(acknowledged=0)
    for sequence in range(1, 1 + WINDOW):
        slot.room(sequence, 4)[:] = bytes([sequence] * 4)
    for sequence in range(1, 1 + WINDOW):
        assert slot.room(sequence + WINDOW, 3) == bytes([sequence] * 3)
    with pytest.raises(ProtocolError, match="never linked"):
        slot.room(1, 4, staged=True)


def test_a_slot_is_known_again_until_its_session_ends() -> None:
    ended: list[str] = []
    sessions = Sessions(grace=60, ended=ended.append)
    slot, known = sessions.enter("a", 3, acknowledged=7)
    assert (known, slot.replies.last) == (False, 7)
    assert sessions.leave("a")
    assert sessions.enter("a", 3, acknowledged=0) == (slot, True)
    assert sessions.slot("a", 3) is slot
    with pytest.raises(ProtocolError, match="no slot 4"):
        sessions.slot("a", 4)
    sessions.end("a")
    assert (ended, len(sessions)) == (["a"], 0)
    assert not sessions.leave("a")


def test_a_session_without_connections_ends_when_its_grace_is_over() -> None:
    ended: list[str] = []
    sessions = Sessions(grace=0.01, ended=ended.append)
    for name in "ab":
        sessions.enter(name, 0, 0)
    sessions.leave("a")
    time.sleep(0.02)
    sessions.end_silent_ones()
    assert ended == ["a"]


def test_sessions_and_slots_have_limits() -> None:
    sessions = Sessions(grace=60, ended=lambda _: None)
    for number in range(MAX_SLOTS):
        sessions.enter("a", number, 0)
    with pytest.raises(ProtocolError, match=f"one client has {MAX_SLOTS} connections already"):
        sessions.enter("a", MAX_SLOTS, 0)
    for number in range(MAX_SESSIONS - 1):
        sessions.enter(f"b{number}", 0, 0)
    with pytest.raises(ProtocolError, match=f"this server has {MAX_SESSIONS} clients already"):
        sessions.enter("c", 0, 0)
