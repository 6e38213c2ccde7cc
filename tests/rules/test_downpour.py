"""Workers that add their updates to the shared weights, against the published procedure; whole numbers are exact."""

from collections.abc import Callable

import numpy as np
import pytest
from tests.support import Floats, Worker, gradient, start_worker, until, working

from modum.box import Box
from modum.rules import Downpour

Connect = Callable[[], Box]


def learn(worker: Worker, update: float | Floats) -> None:
    """A local step that moves the weights by ``update``."""
    worker.vector.weights += np.float32(update)
    worker.averaging.step()


def arrived(worker: Worker) -> None:
    until(lambda: not worker.averaging.exchanging)


def test_one_worker_with_interval_two_follows_a_hand_computation(box: Box) -> None:
    worker = start_worker(box, Downpour(interval=2, overlap=False), np.array([8, -4], np.float32))
    with working(worker):
        learn(worker, 1)
        assert worker.buffer.read().tolist() == [8, -4]
        worker.buffer.add(np.array([10, 20], np.float32))  # what others have learned
        learn(worker, 2)
        assert worker.buffer.read().tolist() == [21, 19]
        assert worker.W.tolist() == [21, 19]


@pytest.mark.parametrize("interval", [1, 3])
def test_three_workers_in_turn_follow_the_published_procedure(interval: int, connect: Connect) -> None:
    rule = Downpour(interval=interval, overlap=False)
    start = np.random.default_rng(7).standard_normal(999).astype(np.float32)
    workers = [start_worker(connect(), rule, start.copy(), number) for number in range(3)]
    G = start.copy()
    W, B = [G.copy() for _ in workers], [G.copy() for _ in workers]
    with working(*workers):
        for step in range(7):
            for number, worker in enumerate(workers):
                worker.step()
                W[number] -= np.float32(0.1) * gradient(W[number], number, step)
                if (step + 1) % interval == 0:
                    G += W[number] - B[number]
                    W[number], B[number] = G.copy(), G.copy()
                np.testing.assert_allclose(worker.W, W[number], rtol=0, atol=3e-6)
                np.testing.assert_allclose(worker.buffer.read(), G, rtol=0, atol=3e-6)


def test_with_overlap_steps_done_meanwhile_are_kept_and_added_once(connect: Connect) -> None:
    worker, other = (
        start_worker(connect(), Downpour(interval=1), np.zeros(3, np.float32), number) for number in range(2)
    )
    with working(worker, other):
        learn(worker, 1)  # its exchange starts
        arrived(worker)
        assert worker.buffer.read().tolist() == [1, 1, 1]
        learn(other, 100)
        arrived(other)
        worker.vector.weights += 10  # a step while the exchange ran
        assert worker.W.tolist() == [11, 11, 11]
        worker.averaging.step()  # what arrived was G without the other; the step of 10 starts on its way
        assert worker.W.tolist() == [11, 11, 11]
        arrived(worker)
        assert worker.buffer.read().tolist() == [111, 111, 111]
        worker.vector.weights += 1000
        worker.averaging.step()
        assert worker.W.tolist() == [1111, 1111, 1111]
        worker.averaging.finish()
        other.averaging.finish()
        assert worker.buffer.read().tolist() == [1111, 1111, 1111]


def test_whatever_order_exchanges_come_in_every_update_is_in_the_sum_once(connect: Connect) -> None:
    order = np.random.default_rng(0)
    sizes = order.integers(-5, 6, (60, 4)).astype(np.float32)
    rule = Downpour(interval=2)
    workers = [start_worker(connect(), rule, np.zeros(4, np.float32), number) for number in range(3)]
    with working(*workers):
        for update in sizes:
            worker = workers[order.integers(3)]
            learn(worker, update)
            if order.integers(2):
                arrived(worker)
        for worker in workers:
            worker.averaging.finish()
        for worker in workers:
            worker.averaging.pull()
            assert worker.W.tolist() == sizes.sum(axis=0).tolist()


def test_an_update_is_divided_by_the_updates_of_others_since_its_weights_were_taken(connect: Connect) -> None:
    rule = Downpour(interval=1, overlap=False, staleness="divide")
    stale, quick = (start_worker(connect(), rule, np.zeros(2, np.float32), number) for number in range(2))
    with working(stale, quick):
        learn(stale, 8)  # nobody in between: in full
        assert quick.buffer.read().tolist() == [8, 8]
        for _ in range(4):
            learn(quick, 1)  # one in between at first, none afterwards
        assert quick.buffer.read().tolist() == [12, 12]
        learn(stale, 8)  # four in between
        assert quick.buffer.read().tolist() == [14, 14]
        assert stale.W.tolist() == [14, 14]
        learn(stale, 8)
        assert quick.buffer.read().tolist() == [22, 22]


def test_updates_are_counted_where_there_are_statistics_too(connect: Connect) -> None:
    rule = Downpour(interval=1, overlap=False, staleness="divide")
    workers = [start_worker(connect(), rule, np.zeros(2, np.float32), number, statistics=1) for number in range(3)]
    with working(*workers):
        for worker in (workers[1], workers[2], workers[1]):
            learn(worker, np.array([1, 0], np.float32))
        learn(workers[0], np.array([6, 0], np.float32))  # three in between
        assert workers[0].buffer.read().tolist() == [5, 0]


def test_a_variance_that_all_workers_move_stays_above_zero(connect: Connect) -> None:
    rule = Downpour(interval=1)
    workers = [start_worker(connect(), rule, np.array([0, 1], np.float32), number, statistics=1) for number in range(4)]
    with working(*workers):
        for worker in workers:
            worker.vector.weights[:] = [1, 0.1]  # each moves it by 0.9: the sum would be below zero
            worker.averaging.step()
        for worker in workers:
            arrived(worker)
        weight, variance = workers[0].buffer.read()
        assert weight == 4
        assert variance == pytest.approx(0.1 + 0.9 / 2**4)
        workers[0].averaging.step()
        assert workers[0].W[1] > 0


def test_settings_that_make_no_sense_are_refused_with_their_value() -> None:
    with pytest.raises(ValueError, match=r"interval \(0\)"):
        Downpour(interval=0)
    with pytest.raises(ValueError, match=r"staleness \('square'\)"):
        Downpour(staleness="square")  # type: ignore[arg-type]


def test_all_settings_must_be_alike_in_all_workers() -> None:
    rule = Downpour(interval=3, overlap=False, staleness="divide")
    assert rule.settings() == {"rule": "downpour", "interval": 3, "overlap": False, "staleness": "divide"}
