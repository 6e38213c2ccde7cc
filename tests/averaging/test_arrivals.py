"""Weights are final when all workers of the job have done their part, those too that have yet to come."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from tests.support import until

from modum import Job
from modum.averaging import LearningRateScale, Worker
from modum.box import Box
from modum.errors import DeadlineError
from modum.groups import Alone
from modum.parameters import ArrayVector
from modum.rules import Elastic

Connect = Callable[[], Box]


class Launched(Job):
    """A job of three workers in this process; `hosts` says which of them may still come, and where they are."""

    hosts: dict[int, str]

    def awaited(self, ranks: Iterable[int]) -> dict[int, str]:
        return {rank: self.hosts[rank] for rank in ranks if rank in self.hosts}


@pytest.fixture
def jobs(connect: Connect) -> Iterator[list[Launched]]:
    with ExitStack() as stack:
        made = [stack.enter_context(Launched(connect(), rank=rank, world_size=3)) for rank in range(3)]
        for job in made:
            job.hosts = {}
        yield made


@pytest.fixture
def join() -> Iterator[Callable[..., Worker]]:
    with ExitStack() as stack:

        def join(job: Job, name: str = "model", ranks: Sequence[int] | None = None) -> Worker:
            vector = ArrayVector(np.full(4, job.rank, np.float32))
            rule = Elastic(moving_rate=0.5, interval=1)
            scale = LearningRateScale()
            worker = Worker.join(job, rule, [vector], Alone(), name=name, scale=scale, model={}, ranks=ranks)
            stack.callback(worker.close)
            return worker

        yield join


def finishing(worker: Worker) -> threading.Thread:
    thread = threading.Thread(target=worker.finish, args=(30.0,))
    thread.start()
    return thread


def test_who_has_not_joined_is_waited_for_and_named_by_rank_and_host(
    jobs: list[Launched], join: Callable[..., Worker]
) -> None:
    worker = join(jobs[0])
    jobs[0].hosts = {1: "node1", 2: ""}
    message = r"2 other groups had not joined 'model' \(rank 1 on node1 is connected, rank 2 has not connected\)"
    with pytest.raises(DeadlineError, match=message):
        worker.finish(0.1)


def test_who_has_left_the_job_is_not_waited_for(jobs: list[Launched], join: Callable[..., Worker]) -> None:
    join(jobs[0]).finish(30.0)


def test_finishing_lasts_until_the_last_one_has_come_and_finished(
    jobs: list[Launched], join: Callable[..., Worker]
) -> None:
    first, second = join(jobs[0]), join(jobs[1])
    for job in jobs:
        job.hosts = dict.fromkeys(range(3), "here")
    threads = [finishing(first), finishing(second)]
    until(lambda: jobs[2].box.leases("model/group/") == [])  # both wait
    last = join(jobs[2])
    assert all(thread.is_alive() for thread in threads)
    threads.append(finishing(last))
    for thread in threads:
        thread.join()


def test_workers_that_train_different_models_do_not_wait_for_each_other(
    jobs: list[Launched], join: Callable[..., Worker]
) -> None:
    for job in jobs:
        job.hosts = dict.fromkeys(range(3), "here")
    for thread in [finishing(join(job, f"model {job.rank}")) for job in jobs]:
        thread.join()


def test_only_those_ranks_are_waited_for_that_are_to_train_the_model(
    jobs: list[Launched], join: Callable[..., Worker]
) -> None:
    jobs[0].hosts = jobs[2].hosts = dict.fromkeys(range(3), "here")
    for thread in [finishing(join(jobs[rank], ranks=[0, 2])) for rank in (0, 2)]:
        thread.join()


LATE = """
import sys
import numpy as np
import modum
from modum.averaging import LearningRateScale, Worker
from modum.groups import Alone
from modum.parameters import ArrayVector
from modum.rules import Elastic
from modum.waiting import poll

if modum.cluster.detect().rank == 2:
    sys.exit(3)
with modum.connect() as job:
    begun, done = (job.box.value(name) for name in ("begun", "done"))
    if job.rank:
        begun.wait(60)
        gone = lambda: not job.box.leases("model/group/")  # rank 0 has done its part, and waits
        poll(gone, timeout=60, every=0.01, error=TimeoutError)
    vector = ArrayVector(np.ones(4, np.float32))
    rule, scale = Elastic(moving_rate=0.5, interval=1), LearningRateScale()
    worker = Worker.join(job, rule, [vector], Alone(), name="model", scale=scale, model={})
    if job.rank:
        worker.stepped()
        done.set(True)
    else:
        begun.set(True)
    worker.finish(60.0)
    print("done", done.get())
    worker.close()
"""


def test_a_worker_of_modum_run_that_joins_late_is_waited_for_and_a_dead_one_is_not(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(LATE)
    command = [sys.executable, "-m", "modum", "run", "-n", "3", "--on-failure", "continue", "train.py"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert result.returncode == 0, result.stderr
    assert sorted(result.stdout.splitlines()) == ["[0] done True", "[1] done True"]
