"""Weights that are not finite do not reach the shared ones."""

from collections.abc import Callable

import numpy as np
import pytest
from tests.support import Floats, start_worker, working

from modum.averaging import Averaging, BackgroundTransfer, Membership, mend
from modum.averaging.guard import PATIENCE, Guard
from modum.averaging.sharing import SharedVectors
from modum.box import Box
from modum.errors import NotFiniteError
from modum.groups import Alone
from modum.parameters import ArrayVector
from modum.parameters.vector import finite
from modum.rules import Downpour, Drift, Elastic, UpdateRule

Connect = Callable[[], Box]
RULES = [Elastic(interval=1, overlap=False), Drift(interval=1, overlap=False), Downpour(interval=1, overlap=False)]


def weights(size: int = 999) -> Floats:
    return np.random.default_rng(1).standard_normal(size).astype(np.float32)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_worker_with_spoiled_weights_takes_the_shared_ones(
    rule: UpdateRule, bad: float, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = (start_worker(connect(), rule, weights(), number) for number in range(2))
    with working(one, other):
        other.W[:] += 1
        other.averaging.step()
        shared = one.buffer.read()
        one.W[500] = bad
        one.averaging.step()

        assert np.array_equal(one.buffer.read(), shared)
        assert np.array_equal(one.W, shared)
        assert one.averaging.statistics().restored == 1
        assert "weights has numbers that are not finite" in caplog.text
        one.W[:] += 1
        one.averaging.step()
        assert not np.array_equal(one.buffer.read(), shared)


def test_with_overlap_a_snapshot_is_looked_at_before_it_leaves(box: Box) -> None:
    worker = start_worker(box, Elastic(interval=1), weights())
    with working(worker):
        worker.W[3] = np.nan
        worker.averaging.step()
        worker.averaging.finish()
        assert np.isfinite(worker.buffer.read()).all()
        assert np.array_equal(worker.W, worker.buffer.read())


def test_weights_that_are_not_finite_begin_nothing(connect: Connect) -> None:
    spoiled = weights()
    spoiled[5] = np.nan
    with pytest.raises(NotFiniteError, match="weights of this worker has numbers that are not finite"):
        start_worker(connect(), Elastic(), spoiled)
    worker = start_worker(connect(), Elastic(), weights())
    with working(worker):
        assert np.array_equal(worker.buffer.read(), weights())
        assert np.array_equal(start_worker_with(connect(), spoiled), weights())


def start_worker_with(box: Box, spoiled: Floats) -> Floats:
    """The weights of a worker that comes later, with these of its own: it takes the shared ones."""
    later = start_worker(box, Elastic(), spoiled, 1)
    with working(later):
        return later.W.copy()


def test_weights_that_are_not_finite_are_not_pushed(box: Box) -> None:
    vector = ArrayVector(weights())
    shared = SharedVectors(box, "model", [vector], {}, timeout=10)
    transfer = BackgroundTransfer(lambda: None, idle_seconds=1.0)
    membership = Membership(box, "model", leader=True)
    averaging = Averaging(Elastic(), [vector], shared.buffers, Alone(), membership, transfer, shared=shared)
    vector.weights[7] = np.inf
    with pytest.raises(NotFiniteError, match="cannot become the shared weights"):
        averaging.push()
    assert np.array_equal(averaging.buffers[0].read(), weights())
    averaging.close()
    membership.leave()
    shared.close()


def test_a_second_time_soon_after_is_an_error(box: Box) -> None:
    worker = start_worker(box, Elastic(interval=1, overlap=False), weights())
    with working(worker):
        worker.W[3] = np.nan
        worker.averaging.step()
        for _ in range(4):
            worker.averaging.step()
        worker.W[3] = np.nan
        with pytest.raises(NotFiniteError, match="and had them 5 exchanges ago too"):
            worker.averaging.step()
        assert np.isfinite(worker.buffer.read()).all()


def test_a_second_time_long_after_is_mended_again() -> None:
    guard, taken = Guard(), []
    for exchanges in (1, 1 + PATIENCE):
        guard.react(exchanges, exchanges, lambda: taken.append(1))
    assert (guard.count, len(taken)) == (2, 2)


def test_it_may_be_an_error_at_once() -> None:
    with pytest.raises(NotFiniteError, match='on_nonfinite="restore"'):
        Guard("raise").react(1, 1, lambda: None)


def test_what_is_no_reaction_is_refused_with_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"on_nonfinite \('ignore'\) must be one of 'restore', 'raise'"):
        Guard("ignore")  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, 1, 7, 1 << 16, (1 << 16) + 3])
def test_finite_looks_at_every_number(size: int) -> None:
    numbers = weights(size)
    bits = (numbers.view(np.uint32) >> 16).astype(np.uint16)
    assert finite(numbers)
    assert finite(bits)
    for place in {0, size // 2, size - 1} if size else ():
        for bad in (np.nan, np.inf, -np.inf):
            spoiled = numbers.copy()
            spoiled[place] = bad
            assert not finite(spoiled)
            assert not finite((spoiled.view(np.uint32) >> 16).astype(np.uint16))


def test_numbers_whose_squares_are_too_large_are_finite() -> None:
    assert finite(np.full(100_000, 3e38, np.float32))


class Variable:
    """As those of Keras are."""

    def __init__(self, value: Floats) -> None:
        self.value = value

    def numpy(self) -> Floats:
        return self.value

    def assign(self, value: Floats) -> None:
        self.value = value


def test_what_an_optimizer_remembers_is_mended() -> None:
    moments, counter = Variable(np.array([1, np.nan, -np.inf], np.float32)), Variable(np.array([7]))
    mend([moments, counter])
    assert moments.value.tolist() == [1, 0, 0]
    assert counter.value.tolist() == [7]
