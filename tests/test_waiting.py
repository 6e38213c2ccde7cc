"""Deadlines and polling."""

import math
import time
from collections.abc import Iterator

import pytest

from modum.errors import DeadlineError
from modum.waiting import Deadline, Timeouts, poll


def _late() -> DeadlineError:
    return DeadlineError("nobody came")


def test_a_deadline_counts_down_to_nothing_and_no_further() -> None:
    deadline = Deadline(0.05)

    assert deadline.timeout == 0.05
    assert 0.0 < deadline.left <= 0.05
    assert not deadline.passed
    time.sleep(0.06)
    assert deadline.left == 0.0
    assert deadline.passed


def test_a_deadline_without_a_timeout_never_passes() -> None:
    deadline = Deadline(None)

    assert deadline.left == deadline.timeout == math.inf
    assert not deadline.passed


def test_no_time_at_all_has_passed_at_once() -> None:
    assert Deadline(0.0).passed
    assert Deadline(-1.0).left == 0.0


def test_polling_returns_the_first_thing_that_is_true() -> None:
    answers: Iterator[object] = iter([0, [], None, "here", "too late"])

    assert poll(lambda: next(answers), timeout=60.0, every=0.001, error=_late) == "here"
    assert next(answers) == "too late"


def test_polling_looks_once_even_without_time() -> None:
    assert poll(lambda: 5, timeout=0.0, error=_late) == 5


def test_polling_looks_again_when_the_time_is_up() -> None:
    """Whoever was held up between two looks is not to miss what came meanwhile."""
    start = time.monotonic()

    assert poll(lambda: time.monotonic() - start >= 0.05, timeout=0.05, every=60.0, error=_late)


def test_polling_gives_up_with_the_error_that_it_was_given() -> None:
    looks = 0

    def look() -> bool:
        nonlocal looks
        looks += 1
        return False

    with pytest.raises(DeadlineError, match="nobody came"):
        poll(look, timeout=0.02, every=0.005, error=_late)
    assert looks >= 2


def test_what_looking_raises_ends_the_wait() -> None:
    with pytest.raises(ZeroDivisionError):
        poll(lambda: 1 / 0, timeout=60.0, error=_late)


def test_the_timeouts_of_a_job_follow_from_one_number() -> None:
    usual = Timeouts()
    assert (usual.connect, usual.create, usual.meet, usual.others) == (30, 60, 120, 600)
    assert Timeouts(1.5).others == 30


@pytest.mark.parametrize("timeout", [0.0, -1.0, float("nan")])
def test_a_timeout_of_no_time_is_refused(timeout: float) -> None:
    with pytest.raises(ValueError, match=r"timeout \(.* s\) must be positive"):
        Timeouts(timeout)
