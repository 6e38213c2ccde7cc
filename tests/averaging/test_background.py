"""The background thread."""

import threading
from collections.abc import Iterator, Sequence

import pytest
from tests.support import Clock, until

from modum.averaging.background import BackgroundTransfer


@pytest.fixture
def counts() -> list[int]:
    return []


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def exchange(counts: list[int], clock: Clock) -> Iterator[BackgroundTransfer]:
    exchange = BackgroundTransfer(lambda: counts.append(1), idle_seconds=60, clock=clock)
    yield exchange
    exchange.close()


def test_a_transfer_runs_on_another_thread_and_is_measured(exchange: BackgroundTransfer, clock: Clock) -> None:
    threads = []

    def transfer() -> Sequence[float]:
        threads.append(threading.current_thread())
        clock.now += 2.5
        return 0.5, 0.25

    exchange.submit(transfer)
    assert exchange.pending
    until(lambda: exchange.ready)
    assert exchange.collect() == (2.5, (0.5, 0.25))
    assert threads[0] is not threading.main_thread()
    assert (exchange.pending, exchange.count, exchange.seconds, exchange.waited) == (False, 1, 2.5, 0.0)


def test_collecting_waits_and_the_wait_is_measured(exchange: BackgroundTransfer, clock: Clock) -> None:
    gate = threading.Event()

    def transfer() -> Sequence[float]:
        assert gate.wait(10)
        clock.now += 2.0
        return ()

    exchange.submit(transfer)
    assert not exchange.ready
    threading.Timer(0.02, gate.set).start()
    assert exchange.collect() == (2.0, ())
    assert exchange.waited == 2.0


def test_collecting_nothing_returns_at_once(exchange: BackgroundTransfer) -> None:
    assert exchange.collect() is None


def test_an_error_of_the_transfer_is_raised_by_every_collect_from_then_on(exchange: BackgroundTransfer) -> None:
    def transfer() -> Sequence[float]:
        raise ConnectionError("the wire was cut")

    exchange.submit(transfer)
    until(lambda: exchange.ready)
    for _ in range(2):
        with pytest.raises(ConnectionError, match="the wire was cut"):
            exchange.collect()


def test_the_groups_are_counted_after_every_transfer(exchange: BackgroundTransfer, counts: list[int]) -> None:
    for number in (1, 2, 3):
        exchange.submit(lambda: ())
        exchange.collect()
        assert len(counts) == number


def test_the_groups_are_counted_while_there_is_nothing_to_do(counts: list[int]) -> None:
    exchange = BackgroundTransfer(lambda: counts.append(1), idle_seconds=0.001)
    until(lambda: len(counts) >= 3)
    exchange.close()


def test_an_error_of_the_counting_is_raised_by_collect() -> None:
    def count() -> None:
        raise ConnectionError("the box is gone")

    exchange = BackgroundTransfer(count, idle_seconds=0.001)
    until(lambda: exchange.ready)
    with pytest.raises(ConnectionError, match="the box is gone"):
        exchange.collect()
    exchange.close()


def test_closing_finishes_the_pending_transfer() -> None:
    done = []

    def transfer() -> Sequence[float]:
        done.append(1)
        return ()

    exchange = BackgroundTransfer(lambda: None, idle_seconds=60)
    exchange.submit(transfer)
    exchange.close()
    assert done == [1]
