"""Which groups are alive."""

from collections.abc import Callable

import pytest

from modum.averaging import Membership
from modum.box import Box
from modum.errors import DeadlineError

Connect = Callable[[], Box]


def test_leaders_are_counted_and_other_members_are_not(connect: Connect) -> None:
    leaders = [Membership(connect(), "model", leader=True) for _ in range(3)]
    member = Membership(connect(), "model", leader=False)
    for membership in (*leaders, member):
        membership.beat()
        assert membership.groups == 3


def test_models_of_other_names_do_not_count(connect: Connect) -> None:
    Membership(connect(), "critic", leader=True)
    assert Membership(connect(), "model", leader=True).groups == 1


def test_a_group_that_left_counts_no_more(connect: Connect) -> None:
    stays, leaves = (Membership(connect(), "model", leader=True) for _ in range(2))
    leaves.leave()
    leaves.beat()  # a heartbeat that was under way must not bring it back
    stays.beat()
    assert stays.groups == leaves.groups == 1


def test_a_group_whose_client_is_gone_counts_no_more(connect: Connect) -> None:
    stays = Membership(connect(), "model", leader=True)
    dies = connect()
    Membership(dies, "model", leader=True)
    dies.close()
    stays.beat()
    assert stays.groups == 1


def test_a_lease_that_was_lost_is_taken_anew(box: Box) -> None:
    membership = Membership(box, "model", leader=True)
    assert membership._lease is not None
    membership._lease.release()  # as if it had expired while the process was stopped
    assert box.leases("model/group/") == []
    membership.beat()
    assert len(box.leases("model/group/")) == membership.groups == 1


def test_waiting_for_others_ends_when_the_last_one_has_left(connect: Connect) -> None:
    first, second = (Membership(connect(), "model", leader=True) for _ in range(2))
    second.leave()
    first.wait_for_others(timeout=0.0)


def test_waiting_for_others_has_a_deadline_and_names_them(connect: Connect) -> None:
    first, other = Membership(connect(), "model", leader=True), connect()
    Membership(other, "model", leader=True)
    with pytest.raises(DeadlineError, match=f"1 other groups .sessions {other.session}. .* after 0.1 s"):
        first.wait_for_others(timeout=0.1)
