"""Every sample once an epoch, whoever does it, and whoever dies."""

import gc
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.box.cutting import CuttingProxy
from tests.support import until

from modum.box import Box, Server
from modum.errors import MismatchError
from modum.groups import Alone
from modum.samples import SharedSamples

Connect = Callable[[], Box]
Indices = NDArray[np.int64]


class Member(Alone):
    """A member of a group whose members run one after the other: what the leader said is kept in a list."""

    def __init__(self, rank: int, size: int, said: list[int]) -> None:
        self.rank, self.size, self._said = rank, size, said

    def broadcast(self, value: int) -> int:
        if self.rank == 0:
            self._said.append(value)
            return value
        return self._said.pop(0)


def counts(batches: Sequence[Indices]) -> Counter[int]:
    return Counter(int(index) for batch in batches for index in batch)


def test_one_worker_gets_every_sample_once_an_epoch(box: Box) -> None:
    batches = list(SharedSamples(box, size=103, batch_size=10, epochs=3, block=20))
    assert counts(batches) == Counter(dict.fromkeys(range(103), 3))
    assert {batch.dtype for batch in batches} == {np.dtype(np.int64)}


def test_the_order_is_the_seeded_permutation_of_the_epoch(box: Box) -> None:
    batches = list(SharedSamples(box, size=100, batch_size=10, epochs=2, block=20, seed=5))
    for epoch in range(2):
        expected = np.random.default_rng([5, epoch]).permutation(100)
        np.testing.assert_array_equal(np.concatenate(batches[10 * epoch : 10 * epoch + 10]), expected)


def test_two_workers_share_the_samples_and_the_faster_one_does_more(connect: Connect) -> None:
    slow, fast = (iter(SharedSamples(connect(), size=100, batch_size=10, block=20)) for _ in range(2))
    slow_batches = [next(slow)]
    fast_batches: list[Indices] = []
    thread = threading.Thread(target=lambda: fast_batches.extend(fast))
    thread.start()
    queue = connect().queue("samples", 5)
    until(lambda: queue.statistics().done == 4)  # now the fast one waits for the slow one's block
    slow_batches += list(slow)
    thread.join()
    assert counts(slow_batches + fast_batches) == Counter(range(100))
    assert (len(slow_batches), len(fast_batches)) == (2, 8)


@pytest.mark.parametrize(
    ("size", "block", "batch_size", "lengths"),
    [
        (40, 20, 10, [10, 10, 10, 10]),
        (45, 20, 10, [10, 10, 9, 8, 8]),  # the last block has 25 samples: three even batches
        (39, 20, 10, [10, 10, 10, 9]),  # one block of 39
        (7, 20, 10, [7]),
        (25, 15, 10, [9, 8, 8]),
    ],
)
def test_ragged_ends_are_spread_evenly(size: int, block: int, batch_size: int, lengths: list[int], box: Box) -> None:
    samples = SharedSamples(box, size=size, block=block, batch_size=batch_size)
    assert [len(batch) for batch in samples] == lengths


@pytest.mark.parametrize(("size", "batch_size"), [(100, 12), (101, 12), (95, 7), (24, 24)])
def test_members_of_a_group_take_disjoint_parts_and_equally_many_steps(size: int, batch_size: int, box: Box) -> None:
    said: list[int] = []
    parts = []
    for rank in range(3):
        group = Member(rank, 3, said if rank == 0 else said.copy())
        parts.append(list(SharedSamples(box, size=size, batch_size=batch_size, group=group, epochs=2)))
    assert len({len(batches) for batches in parts}) == 1
    assert counts([batch for batches in parts for batch in batches]) == Counter(dict.fromkeys(range(size), 2))
    for batches in zip(*parts, strict=True):
        lengths = [len(batch) for batch in batches]
        assert min(lengths) >= max(1, max(lengths) - 1)


def test_a_block_is_done_only_when_the_batch_after_it_is_asked_for(connect: Connect) -> None:
    dies, lives = connect(), connect()
    batches = iter(SharedSamples(dies, size=40, batch_size=10, block=20))
    done = [next(batches), next(batches)]
    assert lives.queue("samples", 2).statistics().done == 0  # the second batch is being processed
    done.append(next(batches))
    assert lives.queue("samples", 2).statistics().done == 1
    dies.close()
    again = list(SharedSamples(lives, size=40, batch_size=10, block=20))
    assert counts(done[:2] + again) == Counter(range(40))


def left_by_break(samples: SharedSamples) -> list[Indices]:
    done: list[Indices] = []
    for batch in samples:
        if len(done) == 2:
            break
        done.append(batch)
    return done


def left_by_an_error(samples: SharedSamples) -> list[Indices]:
    done: list[Indices] = []

    def train() -> None:
        for batch in samples:
            if len(done) == 2:
                raise ValueError("the loss is not finite")
            done.append(batch)

    with pytest.raises(ValueError, match="not finite"):
        train()
    return done


def dropped(samples: SharedSamples) -> list[Indices]:
    batches = iter(samples)
    return [batch for batch, _ in zip(batches, range(2), strict=False)]


@pytest.mark.parametrize("leave", [left_by_break, left_by_an_error, dropped])
def test_a_loop_that_is_left_gives_back_what_is_left_of_its_block(
    leave: Callable[[SharedSamples], list[Indices]], connect: Connect
) -> None:
    leaves, stays = (SharedSamples(connect(), size=100, batch_size=10, block=50, timeout=5) for _ in range(2))
    done = leave(leaves)
    assert connect().queue("samples", 2).statistics().taken == 0
    rest = list(stays)  # raised DeadlineError while the block was held
    assert counts(done + rest) == Counter(range(100))
    assert not leaves.holds


def test_a_loop_that_is_begun_again_goes_on_where_the_last_one_was_left(box: Box) -> None:
    samples = SharedSamples(box, size=100, batch_size=10, block=50)
    done = []
    for _ in range(5):
        for number, batch in enumerate(samples):
            if number == 2:
                break
            done.append(batch)
    assert counts(done) == Counter(range(100))


def test_members_of_a_group_give_back_and_go_on_together(box: Box) -> None:
    said: list[int] = []
    parts = []
    for rank in range(2):
        group = Member(rank, 2, said if rank == 0 else said.copy())
        samples = SharedSamples(box, size=60, batch_size=20, block=60, group=group)
        parts.append([*left_by_break(samples), *samples])
    assert [len(batches) for batches in parts] == [3, 3]
    assert counts([batch for batches in parts for batch in batches]) == Counter(range(60))


def test_garbage_gives_back_when_it_is_safe(connect: Connect) -> None:
    """A collector may run at any point, in the middle of a call to the box too."""
    samples = SharedSamples(connect(), size=100, batch_size=10, block=50)
    cycle: list[object] = [iter(samples)]
    next(cycle[0])  # type: ignore[call-overload]
    cycle.append(cycle)
    del cycle
    gc.collect()
    queue = connect().queue("samples", 2)
    assert queue.statistics().taken == 1
    samples.give_back()
    assert queue.statistics().taken == 0


DYING_WORKER = """
import sys
from modum.box import Box
from modum.samples import SharedSamples
box = Box.connect(sys.argv[1])
for step, batch in enumerate(SharedSamples(box, size=1000, batch_size=10, block=50)):
    print(*batch, flush=True)
    if step == 12:  # in the middle of its third block
        print("stop", flush=True)
        sys.stdin.read()
"""


def test_the_block_that_a_killed_worker_died_in_comes_again_whole(server: Server, box: Box) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-c", DYING_WORKER, server.address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout
    assert worker.stdin
    lines = iter(worker.stdout.readline, "stop\n")
    theirs = [np.array(line.split(), dtype=np.int64) for line in lines]
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    worker.stdout.close()
    worker.stdin.close()
    ours = list(SharedSamples(box, size=1000, batch_size=10, block=50))
    assert len(theirs) == 13
    assert counts(theirs[:10] + ours) == Counter(range(1000))  # two blocks were done
    assert counts(theirs[10:]) <= counts(ours)  # the third one's samples came again


def test_progress_is_reported_batch_by_batch_once_processed(box: Box) -> None:
    told: list[tuple[int, int]] = []

    def report(*, samples: int, total: int) -> None:
        told.append((samples, total))

    batches = iter(SharedSamples(box, size=35, batch_size=10, epochs=2, report=report))
    next(batches)
    assert told == []
    list(batches)
    assert told == [(9, 70), (9, 70), (9, 70), (8, 70)] * 2


def test_the_epoch_and_the_progress_of_the_newest_block_are_shown(box: Box) -> None:
    samples = SharedSamples(box, size=20, batch_size=5, block=10, epochs=2)
    assert [(samples.epoch, samples.progress) for _ in samples] == [
        *[(0, 0.0)] * 2,
        *[(0, 0.25)] * 2,
        *[(1, 0.5)] * 2,
        *[(1, 0.75)] * 2,
    ]


def test_a_worker_that_was_cut_off_for_too_long_warns_and_goes_on(
    connect: Connect, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    other = connect()
    with CuttingProxy(server.address, []) as proxy, Box.connect(proxy.address, transport="tcp") as away:
        batches = iter(SharedSamples(away, size=40, batch_size=10, block=20))
        mine = [next(batches)]
        proxy.cut_all()
        until(lambda: server.statistics().clients == 1)  # its grace has gone by
        theirs = list(SharedSamples(other, size=40, batch_size=10, block=20))
        assert counts(theirs) == Counter(range(40))
        mine += list(batches)
    assert counts(mine) == counts(theirs[:2])
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        (
            "block 0 was handed to another worker as well, because this one had not been heard of for longer than the"
            " servers' grace: its samples may be trained on twice"
        )
    ]
    caplog.clear()


def test_a_worker_with_other_settings_is_refused(connect: Connect) -> None:
    SharedSamples(connect(), size=100, batch_size=10, seed=1)
    with pytest.raises(MismatchError, match="seed: shared 1, here 2"):
        SharedSamples(connect(), size=100, batch_size=10, seed=2)


@pytest.mark.parametrize("what", ["size", "batch_size", "epochs"])
def test_a_number_below_one_is_refused(what: str, box: Box) -> None:
    numbers = {"size": 10, "batch_size": 2, "epochs": 1, what: 0}
    with pytest.raises(ValueError, match=rf"{what} \(0\) must be at least 1"):
        SharedSamples(box, **numbers)  # type: ignore[arg-type]


def test_a_block_smaller_than_a_batch_is_refused(box: Box) -> None:
    with pytest.raises(ValueError, match=r"block \(5\) must hold at least one batch \(10\)"):
        SharedSamples(box, size=100, batch_size=10, block=5)


def test_a_batch_that_leaves_members_without_samples_is_refused(box: Box) -> None:
    with pytest.raises(ValueError, match="a batch may have 2 samples, fewer than the group's 4 members"):
        SharedSamples(box, size=100, batch_size=2, group=Member(0, 4, []))


def test_no_block_is_handed_out_after_a_stop_and_a_wait_for_the_last_ones_ends(box: Box) -> None:
    looks: list[bool] = []

    def stopped() -> bool:
        looks.append(True)
        return len(looks) > 4

    samples = SharedSamples(box, size=8, batch_size=2, block=4, stopped=stopped)
    assert samples.take(0) == 0
    assert samples.take(0) == 1
    assert samples.take(600) is None  # though the last blocks are not done
    assert samples.take(600) is None
    assert samples.done_blocks == 0
