"""A lease that is held for as long as its work takes."""

import logging
import threading
from collections.abc import Callable

import pytest
from tests.support import until, until_renewed

from modum.box import Box, Lease
from modum.coordination import held
from modum.errors import DeadlineError

Connect = Callable[[], Box]


def test_work_that_takes_longer_than_the_lease_keeps_it(connect: Connect) -> None:
    watcher, worker = connect(), connect()
    with held(worker, "work", ttl=3) as lease:
        until_renewed(watcher, "work", 4)  # a third of its time each
        with pytest.raises(DeadlineError, match=f"held by session {worker.session}"):
            watcher.lock("work", timeout=0)
        lease.renew()
    assert watcher.leases() == []


def test_one_that_waited_too_short_leaves_no_thread(connect: Connect) -> None:
    with held(connect(), "work", ttl=30), pytest.raises(DeadlineError), held(connect(), "work", ttl=30, timeout=0):
        pytest.fail("two hold it")


def test_a_renewal_that_fails_is_tried_again(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    renewed, failures = threading.Event(), iter([DeadlineError("no answer")])
    renew = Lease.renew

    def now_and_then(lease: Lease) -> None:
        for failure in failures:
            raise failure
        renew(lease)
        renewed.set()

    monkeypatch.setattr(Lease, "renew", now_and_then)
    with held(box, "work", ttl=3):
        assert renewed.wait(30)


def test_a_loss_is_logged_and_does_not_disturb_the_work(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with held(connect(), "work", ttl=0.3) as lease:
        lease.release()
        with connect().lock("work", timeout=10):
            until(lambda: "lease 'work' was lost" in caplog.text)


def test_an_error_of_the_work_is_not_hidden_by_a_loss(box: Box) -> None:
    def work() -> None:
        with held(box, "work", ttl=30) as lease:
            lease.release()
            raise ValueError("an error of the work")

    with pytest.raises(ValueError, match="an error of the work"):
        work()


def test_a_thread_that_fails_says_so(
    box: Box, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(lease: Lease) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(Lease, "renew", broken)
    with caplog.at_level(logging.ERROR, logger="modum"), held(box, "work", ttl=0.3):
        until(lambda: "lease 'work' is not renewed any more" in caplog.text)
    assert "RuntimeError: broken" in caplog.text
