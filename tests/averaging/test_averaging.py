"""Workers step by step, against the published equations."""

from collections.abc import Callable

import numpy as np
import pytest
from tests.support import Clock, Floats, Gated, elastic_reference, gradient, start_worker, until, working

from modum.box import Box
from modum.errors import BufferNotFoundError
from modum.rules import Elastic

Connect = Callable[[], Box]


def weights(seed: int, size: int = 999) -> Floats:
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


def test_one_worker_with_interval_one_follows_a_hand_computation(box: Box) -> None:
    worker = start_worker(box, Elastic(moving_rate=0.5, interval=1, overlap=False), np.array([8, -4], np.float32))
    with working(worker):
        worker.W[:] = [10, -2]  # G = (8, -4), so d = (1, 1)
        worker.averaging.step()
        assert worker.W.tolist() == [9, -3]
        assert worker.buffer.read().tolist() == [9, -3]
        worker.W[:] = [5, 1]  # d = (-2, 2)
        worker.averaging.step()
        assert worker.W.tolist() == [7, -1]
        assert worker.buffer.read().tolist() == [7, -1]


@pytest.mark.parametrize(("interval", "rate"), [(1, 0.3), (3, 0.225)])
def test_three_workers_in_turn_follow_the_published_equations(interval: int, rate: float, connect: Connect) -> None:
    rule = Elastic(moving_rate=rate, interval=interval, overlap=False)
    workers = [start_worker(connect(), rule, weights(7), number) for number in range(3)]
    G = weights(7)
    W = [G.copy() for _ in workers]
    with working(*workers):
        for step in range(10):
            for number, worker in enumerate(workers):
                worker.step()
                W[number] -= np.float32(0.1) * gradient(W[number], number, step)
                if (step + 1) % interval == 0:
                    elastic_reference(W[number], G, rate)
                np.testing.assert_allclose(worker.W, W[number], rtol=0, atol=2e-6)
                np.testing.assert_allclose(worker.buffer.read(), G, rtol=0, atol=2e-6)


def test_with_overlap_the_correction_of_the_snapshot_is_subtracted_when_it_arrived(box: Box) -> None:
    rule = Gated(moving_rate=0.25, interval=1)
    worker = start_worker(box, rule, weights(1))
    G, W = weights(1), weights(1)
    with working(worker):
        worker.step()  # the first exchange starts: a snapshot of these weights
        W -= np.float32(0.1) * gradient(W, 0, 0)
        snapshot = W.copy()
        for step in (1, 2):
            worker.step()
            W -= np.float32(0.1) * gradient(W, 0, step)
        np.testing.assert_array_equal(worker.W, W)  # compute did not wait, and nothing was subtracted yet
        rule.gate.release()
        until(lambda: worker.buffer.version == 2)
        rule.gate.release()
        until(lambda: not worker.averaging.exchanging)
        worker.step()
        W -= np.float32(0.1) * gradient(W, 0, 3)
        W -= np.float32(0.25) * (snapshot - G)
        np.testing.assert_allclose(worker.W, W, rtol=0, atol=1e-6)
        rule.gate.release()


def test_an_exchange_that_is_due_too_early_is_put_off_and_counted_once(box: Box) -> None:
    rule = Gated(moving_rate=0.5, interval=2)
    worker = start_worker(box, rule, weights(1))
    with working(worker):
        for _ in range(7):  # starts at step 2, the next is due at 4 and put off until the gate opens
            worker.step()
        assert worker.averaging.statistics().put_off == 1
        assert worker.averaging.statistics().exchanges == 0
        rule.gate.release()
        until(lambda: not worker.averaging.exchanging)
        assert worker.averaging.statistics().moving_rate == 0  # it is over, and nobody has looked
        worker.step()  # collects the first and starts the second, at step 8
        assert worker.averaging.statistics().exchanges == 1
        assert worker.averaging.statistics().moving_rate == 0.5
        worker.step()
        assert worker.averaging.statistics().put_off == 1
        worker.step()  # due at step 10, and late again
        assert worker.averaging.statistics().put_off == 2
        rule.gate.release()


def test_the_automatic_interval_is_the_smallest_that_hides_the_exchange(box: Box) -> None:
    clock = Clock()
    rule = Gated(interval="auto", overlap=False, clock=clock, takes=1.0)
    worker = start_worker(box, rule, weights(1), clock=clock)
    for _ in range(30):
        rule.gate.release()
    with working(worker):
        for _ in range(20):
            clock.now += 0.3
            worker.step()
        assert worker.averaging.statistics().interval == 4  # ceil(1.0 / 0.3)
        for _ in range(40):
            clock.now += 0.6
            worker.step()
        assert worker.averaging.statistics().interval == 2  # ceil(1.0 / 0.6)


def test_the_automatic_moving_rate_follows_groups_that_come_and_go(connect: Connect) -> None:
    rule = Elastic(interval=1, overlap=False)
    first = start_worker(connect(), rule, weights(1))
    with working(first):
        first.step()
        assert first.averaging.statistics().moving_rate == 0.5
        second_box = connect()
        boxes = [second_box, *(connect() for _ in range(6))]
        with working(*(start_worker(box, rule, weights(1), number + 1) for number, box in enumerate(boxes))):
            first.step()  # counts while it exchanges
            first.step()
            assert first.averaging.statistics().groups == 8
            assert first.averaging.statistics().moving_rate == pytest.approx(3.2 / 8)
            second_box.close()  # as if its process had died
            until(lambda: len(connect().leases("model/group/")) == 7)
            first.step()
            first.step()
            assert first.averaging.statistics().moving_rate == pytest.approx(3.2 / 7)


def test_statistics_say_how_far_a_worker_is_from_the_shared_weights(box: Box, caplog: pytest.LogCaptureFixture) -> None:
    """W = (3, 4) and G = (3, 4 + 5 x): the distance is x times the worker's own size; a large one is warned of once."""
    worker = start_worker(box, Elastic(moving_rate=0.25, interval=1, overlap=False), np.array([3, 4], np.float32))
    with working(worker):
        for times, warned in ((0.0, 0), (0.4, 0), (0.6, 1), (0.7, 1)):
            worker.W[:] = [3, 4]
            worker.buffer.write(np.array([3, 4 + 5 * times], np.float32))
            worker.averaging.step()
            assert worker.averaging.statistics().apart == pytest.approx(times, abs=1e-6)
            assert caplog.text.count("of their size away") == warned
    assert worker.averaging.statistics().rule.startswith("elastic:moving_rate=0.25")


def test_finishing_loses_nothing_that_was_learned(box: Box) -> None:
    worker = start_worker(box, Elastic(moving_rate=1.0, interval=100), weights(1))
    with working(worker):
        for _ in range(7):
            worker.step()
        learned = worker.W.copy()
        worker.averaging.finish()
        np.testing.assert_allclose(worker.buffer.read(), learned, rtol=0, atol=1e-6)


def test_pulling_takes_the_shared_weights_and_drops_the_pending_correction(box: Box) -> None:
    rule = Gated(moving_rate=0.5, interval=1)
    worker = start_worker(box, rule, weights(1))
    with working(worker):
        worker.step()
        rule.gate.release()
        worker.averaging.pull()
        shared = worker.buffer.read()
        np.testing.assert_array_equal(worker.W, shared)
        worker.vector.weights += 1
        assert worker.averaging.statistics().exchanges == 1
        assert not worker.averaging.exchanging


def test_a_variance_stays_above_zero_however_far_it_fell_during_an_exchange(box: Box) -> None:
    rule = Gated(moving_rate=0.4, interval=1)
    worker = start_worker(box, rule, np.array([0, 0.5], np.float32), statistics=1)
    with working(worker):
        worker.vector.weights[:] = [10, 10]
        worker.averaging.step()  # snapshot: the statistic is 10 and G has 0.5, so d = 3.8
        worker.vector.weights[:] = [10, 1]
        rule.gate.release()
        until(lambda: not worker.averaging.exchanging)
        worker.averaging.step()
        weight, variance = worker.W
        assert weight == 6  # 10 - 0.4 * 10
        assert variance == pytest.approx(0.6 * 1 + 0.4 * 0.5)
        rule.gate.release()


def test_what_the_background_transfer_raises_comes_out_of_the_next_step(box: Box) -> None:
    rule = Gated(moving_rate=0.5, interval=1)
    worker = start_worker(box, rule, weights(1))
    with working(worker):
        worker.step()
        box.delete("model/float32")
        rule.gate.release()
        until(lambda: not worker.averaging.exchanging)
        with pytest.raises(BufferNotFoundError, match="model/float32"):
            worker.step()


def test_exchange_time_is_hidden_unless_compute_waited_for_it(box: Box) -> None:
    rule = Elastic(moving_rate=0.5, interval=1)
    worker = start_worker(box, rule, weights(1, 100_000))
    with working(worker):
        for _ in range(5):
            worker.step()
            until(lambda: not worker.averaging.exchanging)
        worker.step()
        hidden = worker.averaging.statistics()
        assert hidden.exchanges == 5
        assert 0 < hidden.exchange_seconds == hidden.hidden_seconds
