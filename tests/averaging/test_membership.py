"""Which groups are alive."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from tests.support import until

from modum.averaging import Membership
from modum.box import Box
from modum.errors import ConnectionLostError, DeadlineError

Connect = Callable[[], Box]
Join = Callable[..., Membership]


@pytest.fixture
def join(connect: Connect) -> Iterator[Callable[..., Membership]]:
    """Makes members, each with a box of its own; those that have not left do so at the end."""
    with ExitStack() as stack:

        def make(name: str = "model", *, leader: bool = True, box: Box | None = None) -> Membership:
            membership = Membership(box or connect(), name, leader=leader)
            stack.callback(membership.leave)
            return membership

        yield make


def test_leaders_are_counted_and_other_members_are_not(join: Join) -> None:
    leaders = [join() for _ in range(3)]
    member = join(leader=False)
    for membership in (*leaders, member):
        membership.count()
        assert membership.groups == 3


def test_models_of_other_names_do_not_count(join: Join) -> None:
    join("critic")
    assert join("model").groups == 1


def test_a_group_that_left_counts_no_more(join: Join) -> None:
    stays, leaves = join(), join()
    leaves.leave()
    leaves.count()  # it was under way
    stays.count()
    assert stays.groups == leaves.groups == 1


def test_a_group_whose_client_is_gone_counts_no_more(join: Join, connect: Connect) -> None:
    stays, dies = join(), connect()
    member = join(box=dies)
    dies.close()

    def alone() -> bool:  # the server hears of it a moment later
        stays.count()
        return stays.groups == 1

    until(alone)
    member.leave()  # its place has ended with the session


def test_a_group_that_cannot_count_the_others_is_no_member(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ConnectionLostError("the server is gone")

    with monkeypatch.context() as patched:
        patched.setattr(Membership, "count", fail)
        with pytest.raises(ConnectionLostError):
            Membership(box, "model", leader=True)
    assert box.leases() == []


def test_waiting_for_others_ends_when_the_last_one_has_left(join: Join) -> None:
    first, second = join(), join()
    second.leave()
    first.wait_for_others(timeout=0.0)


def test_waiting_for_others_has_a_deadline_and_names_them(join: Join, connect: Connect) -> None:
    first, other = join(), connect()
    join(box=other)
    with pytest.raises(DeadlineError, match=f"1 other groups .sessions {other.session}. .* after 0.1 s"):
        first.wait_for_others(timeout=0.1)
