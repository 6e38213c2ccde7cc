"""Counters, leases and queues on a virtual clock, without sockets."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from modum.box.protocol.limits import MAX_VALUE, MAX_VALUES
from modum.box.server.budget import Budget
from modum.box.server.primitives import Primitives
from modum.box.server.waiting import WaitingRoom
from modum.errors import LeaseLostError, PoolFullError


@dataclass
class Asker:
    """Somebody who asks."""

    holder: str
    gone: bool = False

    def check(self) -> None:
        if self.gone:
            raise ConnectionAbortedError


A, B, C = (Asker(name) for name in "abc")


class Clock:
    """Stands still until it is moved."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def shared(clock: Callable[[], float]) -> Primitives:
    return Primitives(clock, WaitingRoom(clock), Budget(1 << 30))


def test_a_counter_starts_at_zero_and_returns_the_value_before(shared: Primitives) -> None:
    assert [shared.counter_add("c", amount) for amount in (5, -7, 0)] == [0, 5, -2]
    assert shared.counter_wait("c", -2, 0.0, A) == -2
    assert shared.counter_wait("other", 1, 0.0, A) == 0


def test_a_counter_does_not_overflow(shared: Primitives) -> None:
    shared.counter_add("c", 2**63 - 1)
    with pytest.raises(ValueError, match="overflow"):
        shared.counter_add("c", 1)
    assert shared.counter_add("c", 0) == 2**63 - 1


def test_a_lease_has_one_holder_until_its_time_is_up(shared: Primitives, clock: Clock) -> None:
    assert shared.lease_acquire("l", 10, 0, A) == (1, "a")
    assert shared.lease_acquire("l", 10, 0, B) == (0, "a")
    assert shared.lease_acquire("l", 10, 0, A) == (0, "a")
    clock.now += 6
    shared.lease_renew("l", 1)
    clock.now += 6
    assert shared.leases("", "") == [("l", "a", 4.0)]
    assert shared.lease_acquire("l", 10, 0, B) == (0, "a")
    clock.now += 4
    assert shared.leases("", "") == []
    with pytest.raises(LeaseLostError):
        shared.lease_renew("l", 1)
    assert shared.lease_acquire("l", 10, 0, A) == (2, "a")
    with pytest.raises(LeaseLostError):
        shared.lease_release("l", 1)
    shared.lease_release("l", 2)
    assert shared.lease_acquire("l", 10, 0, B) == (3, "b")


def test_a_session_that_ends_loses_its_leases(shared: Primitives) -> None:
    shared.lease_acquire("group/0", 10, 0, A)
    shared.lease_acquire("group/1", 10, 0, B)
    shared.lease_acquire("other", 10, 0, B)
    assert [name for name, _, _ in shared.leases("group/", "")] == ["group/0", "group/1"]
    shared.end_session("b")
    assert [name for name, _, _ in shared.leases("", "")] == ["group/0"]


def test_items_of_a_dead_session_come_again_first(shared: Primitives) -> None:
    shared.queue_open("q", 5)
    assert [shared.queue_take("q", 0, asker)[0] for asker in (A, B, A, B)] == [0, 1, 2, 3]
    shared.queue_done("q", "a", 0)
    shared.end_session("b")
    with pytest.raises(ConnectionAbortedError):
        shared.queue_take("q", 0, Asker("gone", gone=True))
    assert [shared.queue_take("q", 0, C)[0] for _ in range(3)] == [1, 3, 4]
    assert shared.queue_take("q", 0, C) == (-1, False)
    assert shared.queue_look("q") == (5, 4, 1)
    with pytest.raises(LeaseLostError, match="item 1"):
        shared.queue_done("q", "b", 1)
    for session, item in (("c", 1), ("c", 3), ("c", 4), ("a", 2)):
        shared.queue_done("q", session, item)
    assert shared.queue_take("q", 0, C) == (-1, True)


def test_a_queue_has_one_size(shared: Primitives) -> None:
    shared.queue_open("q", 5)
    shared.queue_open("q", 5)
    with pytest.raises(ValueError, match="has 5 items, not 6"):
        shared.queue_open("q", 6)
    with pytest.raises(ValueError, match="no work queue 'other'"):
        shared.queue_take("other", 0, A)


def test_a_value_is_changed_only_where_it_is_as_expected(shared: Primitives) -> None:
    assert shared.value_get("v", 0.0, A) == b""
    assert shared.value_put("v", b"1", b"0") == b""
    assert shared.value_put("v", b"1", b"") == b""
    assert shared.value_put("v", b"2", b"0") == b"1"
    assert shared.value_get("v", 0.0, A) == b"1"
    assert shared.value_put("v", b"2", None) == b""
    assert shared.value_put("v", b"", b"2") == b"2"
    assert shared.is_empty()


def test_values_have_limits(shared: Primitives) -> None:
    with pytest.raises(ValueError, match=f"limit is {MAX_VALUE}"):
        shared.value_put("v", b"x" * (MAX_VALUE + 1), None)
    for number in range(MAX_VALUES):
        shared.value_put(str(number), b"x", None)
    with pytest.raises(PoolFullError, match=f"keeps {MAX_VALUES} values already"):
        shared.value_put("one more", b"x", None)
    shared.value_put("7", b"y", None)
    shared.value_put("7", b"", None)
    shared.value_put("one more", b"x", None)
