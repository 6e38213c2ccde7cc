"""Workers report how far they are, and everybody who can join the box can read it."""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from modum.box import Box, Buffer, Server, new_token
from modum.errors import BufferNotFoundError, MismatchError
from modum.observe.progress import JobProgress, WorkerProgress, clear_progress, read_progress

PATIENCE = 60.0
Join = Callable[[int, int], WorkerProgress]


@pytest.fixture
def box() -> Iterator[Box]:
    server = Server(token=(token := new_token()), memory=2**24)
    server.start()
    try:
        with Box.connect(server.address, token=token) as box:
            yield box
    finally:
        server.close()


@pytest.fixture
def join(box: Box) -> Iterator[Join]:
    """Makes a worker's progress, which is closed at the end."""
    with contextlib.ExitStack() as stack:

        def make(rank: int, world_size: int) -> WorkerProgress:
            worker = WorkerProgress(box, rank, world_size)
            stack.callback(worker.close)
            return worker

        yield make


def writes(box: Box) -> int:
    """How often the progress was written."""
    return next(buffer.version for buffer in box.list() if buffer.name == "modum/progress")


def wait_for(done: Callable[[], bool]) -> None:
    """Until it is so."""
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def progress_of(box: Box) -> JobProgress:
    progress = read_progress(box)
    assert progress is not None
    return progress


def test_there_is_no_progress_before_a_worker_joins(box: Box) -> None:
    assert read_progress(box) is None


def test_a_worker_that_joined_has_not_reported_yet(box: Box, join: Join) -> None:
    join(0, 4)
    assert read_progress(box) == JobProgress(
        samples=0,
        steps=0,
        total=None,
        loss=None,
        exchanges=0,
        exchange_seconds=0.0,
        hidden_seconds=0.0,
        ranks=0,
        world_size=4,
    )
    assert progress_of(box).seconds_per_exchange == 0
    assert progress_of(box).hidden_fraction == 0


def test_the_reports_of_all_workers_are_put_together(box: Box, join: Join) -> None:
    workers = [join(rank, 4) for rank in range(3)]
    workers[0].report(samples=64, steps=1, total=60_000, loss=2.0, exchange_seconds=0.25, hidden_seconds=0.25)
    workers[1].report(samples=128, steps=2, total=60_000, loss=1.0, exchange_seconds=0.75, hidden_seconds=0.5)
    workers[2].report(samples=32, steps=1)
    for worker in workers:
        worker.flush()
    progress = progress_of(box)
    assert (progress.samples, progress.steps, progress.total) == (224, 4, 60_000)
    assert progress.loss == 1.5
    assert (progress.exchanges, progress.exchange_seconds, progress.hidden_seconds) == (2, 1.0, 0.75)
    assert (progress.seconds_per_exchange, progress.hidden_fraction) == (0.5, 0.75)
    assert (progress.ranks, progress.world_size) == (3, 4)


def test_counts_add_up_and_the_newest_loss_and_total_stay(box: Box, join: Join) -> None:
    worker = join(0, 1)
    for loss in (3.0, 2.0, 1.0):
        worker.report(samples=10, steps=1, total=100, loss=loss)
    worker.report(samples=1)
    worker.flush()
    progress = progress_of(box)
    assert (progress.samples, progress.steps, progress.total, progress.loss) == (31, 3, 100, 1.0)


def test_reports_are_gathered_and_not_each_written(box: Box, join: Join) -> None:
    worker = join(0, 1)
    before = writes(box)
    for _ in range(1000):
        worker.report(samples=1)
    assert writes(box) - before < 1000
    wait_for(lambda: progress_of(box).samples == 1000)


def test_who_reports_does_not_wait_for_the_network(join: Join, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = join(0, 1)
    begun, goes_on = threading.Event(), threading.Event()

    def write(*_: object, **__: object) -> None:
        begun.set()
        assert goes_on.wait(PATIENCE)

    monkeypatch.setattr(Buffer, "write", write)
    worker.report(samples=1)
    assert begun.wait(PATIENCE)
    worker.report(samples=1)  # would hang
    goes_on.set()


def test_what_writing_raised_comes_out_of_a_later_report(box: Box) -> None:
    worker = WorkerProgress(box, 0, 1)
    box.delete("modum/progress")

    def report() -> bool:
        worker.report(samples=1)
        return False

    with pytest.raises(BufferNotFoundError):
        wait_for(report)


def test_a_flush_without_news_writes_nothing(box: Box, join: Join) -> None:
    worker = join(0, 1)
    worker.report(samples=1)
    worker.flush()
    before = writes(box)
    worker.flush()
    assert writes(box) == before


def test_more_samples_than_single_precision_holds_are_counted_exactly(box: Box, join: Join) -> None:
    worker = join(0, 1)
    worker.report(samples=2**40, total=2**40 + 1)
    worker.report(samples=1)
    worker.flush()
    assert (progress_of(box).samples, progress_of(box).total) == (2**40 + 1, 2**40 + 1)


def test_a_loss_that_is_no_number_is_not_hidden(box: Box, join: Join) -> None:
    workers = [join(rank, 2) for rank in range(2)]
    workers[0].report(loss=1.0)
    workers[1].report(loss=math.nan)
    for worker in workers:
        worker.flush()
    loss = progress_of(box).loss
    assert loss is not None
    assert math.isnan(loss)


def test_a_worker_that_comes_back_goes_on_counting(box: Box, join: Join) -> None:
    for _ in range(2):
        worker = join(1, 2)
        worker.report(samples=10)
        worker.flush()
    assert progress_of(box).samples == 20


def test_threads_may_report_at_the_same_time(box: Box, join: Join) -> None:
    worker = join(0, 1)

    def report() -> None:
        for _ in range(500):
            worker.report(samples=1, exchange_seconds=1.0)

    threads = [threading.Thread(target=report) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    worker.flush()
    assert (progress_of(box).samples, progress_of(box).exchanges) == (2000, 2000)


def test_what_an_earlier_job_left_can_be_cleared(box: Box, join: Join) -> None:
    clear_progress(box)
    for worker, samples in ((join(0, 2), 1), (join(1, 2), 2)):
        worker.report(samples=samples)
        worker.flush()
    clear_progress(box)
    assert read_progress(box) is None
    worker = join(3, 4)
    worker.report(samples=5)
    worker.flush()
    assert (progress_of(box).samples, progress_of(box).world_size) == (5, 4)


def test_a_rank_without_a_place_in_an_earlier_jobs_progress_is_refused(box: Box, join: Join) -> None:
    join(0, 2)
    with pytest.raises(MismatchError, match=r"rank 3 of 4 .* a job of 2 workers\nHINT: .*modum run --box"):
        join(3, 4)
