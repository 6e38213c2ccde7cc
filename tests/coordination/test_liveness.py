"""Who takes part in something, and who is gone."""

import threading
from collections.abc import Callable

import pytest

from modum.box import Box, Lease
from modum.coordination.liveness import Roster
from modum.errors import ConnectionLostError, DeadlineError, LeaseLostError
from modum.waiting import poll

Connect = Callable[[], Box]


def renewers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "modum-lease"]


def test_everybody_sees_who_has_joined_and_not_left(connect: Connect) -> None:
    first, second, watcher = connect(), connect(), Roster(connect(), "job")
    one, two = Roster(first, "job").join("one", timeout=0), Roster(second, "job").join("two", timeout=0)

    assert watcher.alive() == {"one": first.session, "two": second.session}
    one.leave()
    assert watcher.alive() == {"two": second.session}
    two.leave()
    assert watcher.alive() == {}


def test_rosters_of_other_names_and_of_longer_ones_are_others(box: Box) -> None:
    member = Roster(box, "job").join("one", timeout=0)

    assert Roster(box, "jo").alive() == Roster(box, "job/member").alive() == {}
    member.leave()


def test_a_place_is_held_by_one_member_at_a_time(connect: Connect) -> None:
    first = connect()
    member = Roster(first, "job").join("one", timeout=0)

    with pytest.raises(DeadlineError, match=f"held by session {first.session}"):
        Roster(connect(), "job").join("one", timeout=0.1)
    member.leave()
    Roster(connect(), "job").join("one", timeout=0)


def test_a_member_whose_client_is_gone_is_no_member(connect: Connect) -> None:
    dies, roster = connect(), Roster(connect(), "job")
    member = Roster(dies, "job").join("one", timeout=0)
    dies.close()

    assert roster.alive() == {}
    member.leave()  # its place has ended with the session


def test_a_member_cannot_be_done_with_everything_where_nobody_learns_of_it(connect: Connect) -> None:
    box = connect()
    member = Roster(box, "job").join("one", timeout=0)
    box.close()

    with pytest.raises(ConnectionLostError):
        member.leave(done=True)
    member.leave()  # the second time there is nothing to give up


def test_a_lease_renews_itself_in_a_thread_until_the_member_leaves(box: Box) -> None:
    roster = Roster(box, "job", ttl=0.15)
    member = roster.join("one", timeout=0)

    assert len(renewers()) == 1
    with pytest.raises(TimeoutError):  # several times its time
        poll(lambda: "one" not in roster.alive(), timeout=0.5, every=0.01, error=TimeoutError)
    member.leave()
    assert roster.alive() == {}
    assert renewers() == []


def test_a_lease_that_ends_with_the_session_needs_no_thread(box: Box) -> None:
    member = Roster(box, "job").join("one", timeout=0)

    assert renewers() == []
    member.leave()


def test_a_lease_that_was_lost_is_taken_anew(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    renew = Lease.renew
    lost = threading.Event()

    def lose_once(lease: Lease) -> None:
        if not lost.is_set():
            lease.release()  # as if it had expired while the process was stopped
            lost.set()
            raise LeaseLostError("it expired")
        renew(lease)

    monkeypatch.setattr(Lease, "renew", lose_once)
    roster = Roster(box, "job", ttl=1.0)
    member = roster.join("one", timeout=0)
    assert lost.wait(5.0)

    poll(roster.alive, timeout=5.0, every=0.01, error=lambda: AssertionError("it was not taken anew"))
    member.leave()
    assert roster.alive() == {}


def test_a_thread_that_cannot_be_started_leaves_no_lease_behind(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError, match="can't start"):
            Roster(box, "job", ttl=60.0).join("one", timeout=0)
    assert box.leases() == []


def test_the_thread_ends_with_a_box_that_is_closed(connect: Connect) -> None:
    box = connect()
    member = Roster(box, "job", ttl=0.03).join("one", timeout=0)
    box.close()

    poll(lambda: not renewers(), timeout=5.0, every=0.01, error=lambda: AssertionError("the thread goes on"))
    member.leave()


def test_waiting_ends_when_the_others_have_left_or_died(connect: Connect) -> None:
    dies, roster = connect(), Roster(connect(), "job")
    stays, leaves = roster.join("stays", timeout=0), Roster(connect(), "job").join("leaves", timeout=0)
    Roster(dies, "job").join("dies", timeout=0)

    def go() -> None:
        leaves.leave()
        dies.close()

    goes = threading.Timer(0.05, go)
    goes.start()

    roster.wait_until_gone(but="stays", timeout=60.0)
    assert set(roster.alive()) == {"stays"}
    goes.join()
    stays.leave()
    roster.wait_until_gone(timeout=None)


def test_waiting_has_a_deadline_and_an_error_that_names_them(connect: Connect) -> None:
    other = connect()
    roster, member = Roster(connect(), "job"), Roster(other, "job").join("one", timeout=0)

    with pytest.raises(DeadlineError, match=r"one did not leave within 0\.05 s"):
        roster.wait_until_gone(timeout=0.05)
    with pytest.raises(ValueError, match=other.session):
        roster.wait_until_gone(timeout=0.0, error=lambda others: ValueError(others["one"]))
    member.leave()


def test_who_is_gone_is_lost_unless_it_had_done_everything(connect: Connect) -> None:
    roster = Roster(connect(), "job")
    members = {name: Roster(connect(), "job").join(name, timeout=0) for name in ("works", "finishes", "gives up")}
    members["finishes"].leave(done=True)
    members["gives up"].leave()

    assert roster.lost(["works", "finishes", "gives up", "never came"]) == ["gives up", "never came"]
    members["works"].leave(done=True)
    assert roster.lost(["works"]) == []


def test_the_first_failure_is_told_to_all(connect: Connect) -> None:
    first, second = Roster(connect(), "job"), Roster(connect(), "job")

    assert first.failure() is None
    first.fail("stage 1 failed: " + "x" * 5000)
    second.fail("stage 2 failed")
    told = second.failure()
    assert told is not None
    assert told.startswith("stage 1 failed: xxx")
    assert len(told) == 4000
