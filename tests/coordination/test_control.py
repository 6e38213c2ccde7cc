"""Decisions for all workers: a stop, the learning rate, and whose validation counts."""

from collections.abc import Callable

from modum import Job
from modum.box import Box
from modum.groups import Alone
from modum.samples import SamplePools


def test_what_one_worker_decides_all_of_them_see(connect: Callable[[], Box]) -> None:
    one, two = (Job(connect(), rank=rank, world_size=2).control("model") for rank in range(2))
    assert (two.should_stop, two.stopped, two.learning_rate, two.validation, two.validator()) == (False, *[None] * 4)
    one.learning_rate = 0.25
    one.validation = (3, {"val_loss": 0.5})
    assert one.validator(0) == two.validator(1) == 0
    one.stop("enough")
    two.stop("enough as well")
    assert (two.should_stop, two.stopped, two.learning_rate) == (True, "enough", 0.25)
    assert two.validation == (3, {"val_loss": 0.5})
    assert one.validator() == 0


def test_a_stop_is_for_one_training_in_one_run_of_the_job(box: Box) -> None:
    job = Job(box)
    job.control("model").stop("enough")
    assert not job.control("other").should_stop
    assert not Job(box, attempt="1").control("model").should_stop


def test_the_samples_of_a_stopped_training_end(box: Box) -> None:
    job = Job(box)
    pools = SamplePools(job, "model", Alone())
    seen = []
    for batch in pools.pool(size=40, batch_size=5, block=10):
        seen.append(batch)
        job.control("model").stop("enough")
    assert len(seen) == 2
    assert not list(pools.pool(size=40, batch_size=5))
