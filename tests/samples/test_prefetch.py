"""Samples for loops that fetch ahead, drop what they fetched, or train on several batches at once."""

import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from itertools import chain, islice

import numpy as np
import pytest
from tests.processes import TIMEOUT
from tests.support import until

from modum.box import Box
from modum.errors import DeadlineError
from modum.groups import BoxGroup
from modum.samples import Prefetch, SharedSamples

Connect = Callable[[], Box]


class Loop:
    """Trains as Keras does: on ``together`` batches at a time, which a thread fetches if it is ``ahead``."""

    def __init__(self, feed: Prefetch, *, ahead: bool = False) -> None:
        self.feed = feed
        self.ahead = ahead
        self.epochs: list[list[int]] = []
        """The samples that were trained on, by epoch of the loop."""

    def epoch(self) -> None:
        self.epochs.append([])
        with prefetched(self.feed.batches()) if self.ahead else nullcontext(self.feed.batches()) as batches:
            over = False
            while not over:
                fetched = list(islice(batches, self.feed.together))
                for batch in fetched:
                    self.epochs[-1] += batch.tolist()
                count, over = self.feed.trained()
                assert count == len(fetched)

    def run(self) -> None:
        while not self.feed.done:
            self.epoch()

    @property
    def samples(self) -> list[int]:
        return [sample for epoch in self.epochs for sample in epoch]


@contextmanager
def prefetched(batches: Iterator[np.ndarray]) -> Iterator[Iterator[np.ndarray]]:
    """The same batches, fetched by a thread until the end of the context."""
    fetched: queue.Queue[np.ndarray | None] = queue.Queue(2)
    ended = threading.Event()

    def fetch() -> None:
        for batch in chain(batches, [None]):
            while not ended.is_set():
                with suppress(queue.Full):
                    fetched.put(batch, timeout=0.01)
                    break
            else:
                return

    def got() -> Iterator[np.ndarray]:
        while (batch := fetched.get(timeout=30)) is not None:
            yield batch

    threading.Thread(target=fetch).start()
    yield got()
    ended.set()  # a thread that waits for samples ends with the next pass, or when all is done


def feed_of(box: Box, together: int = 1, **options: int) -> Prefetch:
    settings = {"size": 100, "batch_size": 5, "epochs": 2, "block": 20, **options}
    return Prefetch(SharedSamples(box, **settings), together)  # type: ignore[arg-type]


@pytest.mark.parametrize("together", [1, 4])
def test_one_loop_does_every_sample_once_an_epoch(together: int, box: Box) -> None:
    loop = Loop(feed_of(box, together))
    loop.run()
    assert [sorted(epoch) for epoch in loop.epochs] == [list(range(100))] * 2


@pytest.mark.parametrize("together", [1, 3])
def test_several_loops_share_all_samples(together: int, connect: Connect) -> None:
    loops = [Loop(feed_of(connect(), together, epochs=5)) for _ in range(3)]
    threads = [threading.Thread(target=loop.run) for loop in loops]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert Counter(sample for loop in loops for sample in loop.samples) == dict.fromkeys(range(100), 5)


def test_what_was_fetched_and_not_trained_on_comes_again_and_is_not_confirmed(box: Box) -> None:
    feed = feed_of(box, epochs=1)
    first = list(islice(feed.batches(), 7))  # a look at the data, or an iterator that is dropped
    assert [batch.tolist() for batch in islice(feed.batches(), 3)] == [batch.tolist() for batch in first[:3]]
    assert feed.trained() == (1, False)
    assert [batch.tolist() for batch in islice(feed.batches(), 2)] == [batch.tolist() for batch in first[1:3]]
    done = box.queue("samples", 5).statistics()
    assert (done.taken, done.done) == (2, 0)


def test_an_epoch_ends_before_samples_of_the_next_though_they_were_fetched(box: Box) -> None:
    feed = feed_of(box)
    batches = feed.batches()
    ahead = list(islice(batches, 30))
    ends = [feed.trained() for _ in range(20)]
    assert ends == [(1, False)] * 19 + [(1, True)]
    assert not feed.done
    assert [batch.tolist() for batch in islice(feed.batches(), 10)] == [batch.tolist() for batch in ahead[20:]]


def test_a_pass_that_was_left_takes_nothing_from_the_next(box: Box) -> None:
    feed = feed_of(box, epochs=1)
    left = feed.batches()
    next(left)
    now = feed.batches()
    first = next(now)
    assert list(left) == []
    feed.trained()
    assert sorted([*first, *(sample for batch in _trained(feed, now) for sample in batch)]) == list(range(100))


def _trained(feed: Prefetch, batches: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    for batch in batches:
        yield batch
        feed.trained()


def test_with_several_batches_together_the_last_pass_ends_while_others_still_work(connect: Connect) -> None:
    mine, other = feed_of(connect(), 3, epochs=1), feed_of(connect(), epochs=1)
    held = list(islice(other.batches(), 4))  # one block of five
    loop = Loop(mine)
    loop.epoch()  # sixteen batches in threes: the last one is trained on alone, and none is waited for
    assert len(loop.samples) == 80
    assert not mine.done
    assert sum(map(len, held)) == 20


def test_the_block_of_a_worker_that_died_is_done_by_another(connect: Connect) -> None:
    lost, box = connect(), connect()
    gone = feed_of(lost, epochs=1)
    list(islice(gone.batches(), 3))
    gone.trained()
    loop = Loop(feed_of(box, epochs=1), ahead=True)
    thread = threading.Thread(target=loop.run)
    thread.start()
    lost.close()
    thread.join(60)
    assert sorted(loop.samples) == list(range(100))


def test_waiting_for_others_at_the_end_has_a_deadline(connect: Connect) -> None:
    box = connect()
    feed = Prefetch(SharedSamples(box, size=100, batch_size=5, block=20, timeout=0.2))
    other = feed_of(connect(), epochs=1)
    next(other.batches())
    with pytest.raises(DeadlineError, match="others still hold its last items"):
        Loop(feed).run()


@pytest.mark.parametrize("together", [1, 4])
def test_members_of_a_group_train_on_their_parts_of_the_same_batches(together: int, connect: Connect) -> None:
    with ExitStack() as stack:
        loops = []
        for rank in range(2):
            box = connect()
            relay = BoxGroup(box, "relay", rank=rank, size=2, timeout=TIMEOUT)
            stack.callback(relay.close)
            samples = SharedSamples(box, size=100, batch_size=10, epochs=3, block=20, group=relay)
            loops.append(Loop(Prefetch(samples, together), ahead=bool(rank)))
        threads = [threading.Thread(target=loop.run) for loop in loops]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        for first, second in zip(*(loop.epochs for loop in loops), strict=True):
            assert len(first) == len(second)
            if together == 1:
                assert sorted(first + second) == list(range(100))
        assert Counter(sample for loop in loops for sample in loop.samples) == dict.fromkeys(range(100), 3)


def test_the_end_of_a_pass_ends_a_thread_that_waits_for_the_last_blocks(box: Box) -> None:
    feed = Prefetch(SharedSamples(box, size=2, batch_size=1, epochs=2, block=1))
    got: list[int] = []

    def fetch() -> None:
        for batch in feed.batches():
            got.append(batch.item())  # noqa: PERF401 - the test looks on

    thread = threading.Thread(target=fetch)
    thread.start()
    until(lambda: len(got) == 4)  # and none of them is trained on, so it cannot end by itself
    feed.end_pass()
    thread.join(60)
    assert not thread.is_alive()
    assert [batch.item() for batch in islice(feed.batches(), 4)] == got


def test_the_epochs_before_the_first_one_are_left_out_and_count_as_done(box: Box) -> None:
    done: list[int] = []
    samples = SharedSamples(
        box, size=40, batch_size=5, epochs=3, block=20, report=lambda samples, total: done.append(samples)
    )
    feed = Prefetch(samples)
    next(feed.batches())  # somebody looks at a batch of the first epoch
    feed.begin(2)
    loop = Loop(feed)
    loop.run()
    assert [sorted(epoch) for epoch in loop.epochs] == [list(range(40))]
    assert samples.done_blocks == samples.permutation.blocks == 6
    assert sum(done) == 120


def test_a_loop_that_nobody_follows_may_look_and_is_told_before_it_waits(box: Box) -> None:
    for blocks in (1, 20):
        name = f"samples{blocks}"
        feed = Prefetch(SharedSamples(box, size=4 * blocks, batch_size=1, block=4, name=name), unfollowed="follow me")
        assert len(list(islice(feed.batches(), 3))) == 3
        with pytest.raises(RuntimeError, match="follow me"):
            list(feed.batches())
        feed.followed = True
        assert feed.left()
        loop = Loop(feed)
        loop.run()
        assert sorted(loop.samples) == list(range(4 * blocks))
        feed.end()
        with pytest.raises(RuntimeError, match="HINT: call share again"):
            next(feed.batches())


def test_a_loop_that_comes_too_late_may_still_look(box: Box) -> None:
    Loop(Prefetch(SharedSamples(box, size=4, batch_size=2))).run()
    feed = Prefetch(SharedSamples(box, size=4, batch_size=2), unfollowed="follow me")
    assert [batch.tolist() for batch in feed.batches()] == [[0]]
    assert not feed.left()
