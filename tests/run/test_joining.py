"""`modum join`: workers come to a job that runs, and go again."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import psutil
import pytest
from tests.processes import TIMEOUT, assert_gone

from modum.box import Box, Server, SnapshotSettings, new_token
from modum.cluster.modum_run import ModumRun
from modum.cluster.registration import Registration
from modum.errors import MismatchError, ModumError
from modum.run import RunConfig
from modum.run.hosts import Part
from modum.run.joining import announce, join
from modum.waiting import poll

Connect = Callable[[], Box]
MODUM = [sys.executable, "-m", "modum"]
TRAIN = """
import modum, numpy as np
from modum.averaging import LearningRateScale, Worker
from modum.groups import Alone
from modum.parameters import ArrayVector
from modum.rules import Elastic
from modum.samples import SamplePools
from modum.waiting import poll

with modum.connect() as job:
    def wait_for(name):
        poll(lambda: job.stopping or job.box.value(name).get(), timeout=100, error=lambda: AssertionError(name))

    vector = ArrayVector(np.zeros(4, np.float32))
    scale = LearningRateScale(scale="linear", warmup_steps=0)
    worker = Worker.join(job, Elastic(interval=1), [vector], Alone(), name="m", scale=scale, model={})
    done = groups = 0
    for batch in SamplePools(job, "m", Alone(), lambda: worker.leaving).pool(size=64, batch_size=2, block=4):
        vector.weights += 1
        worker.stepped()
        done += len(batch)
        assert worker.learning_rate_factor == worker.statistics().groups
        groups = max(groups, worker.statistics().groups)
        if done > 2:
            continue
        if job.rank < job.launched:
            wait_for("enough")
        else:
            print("trains", job.rank, job.world_size, flush=True)
            wait_for(f"go {job.rank}")
    worker.finish()
    worker.pull()
    print("ends", job.rank, done, groups, *vector.weights[:1], flush=True)
    worker.close()
"""


@contextmanager
def started(*command: object, folder: Path, token: str) -> Iterator["subprocess.Popen[str]"]:
    """A command of Modum, which has ended afterwards."""
    environment = {**os.environ, "MODUM_TOKEN": token, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*MODUM, *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=environment,
    )
    family = [psutil.Process(process.pid)]
    try:
        yield process
    finally:
        family += family[0].children(recursive=True) if family[0].is_running() else []
        process.kill()
        assert_gone(family)
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()


def line(stream: IO[str] | None, pattern: str) -> "re.Match[str]":
    """Read until a line matches."""
    assert stream is not None
    for each in stream:
        if found := re.search(pattern, each):
            return found
    raise AssertionError(f"no {pattern!r}")


def rest(process: "subprocess.Popen[str]") -> tuple[str, str]:
    output, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, errors
    return output, errors


def test_workers_come_and_go_and_the_job_ends_with_all_samples_done(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(TRAIN)
    token = new_token()
    with ExitStack() as stack:
        server = stack.enter_context(Server(token=token))
        box = stack.enter_context(Box.connect(server.address, token=token))

        def start(*command: object) -> "subprocess.Popen[str]":
            return stack.enter_context(started(*command, folder=tmp_path, token=token))

        launched = start("run", "--box", server.address, "-n", 2, "train.py")
        line(launched.stderr, "2 workers in 2 groups")
        poll(lambda: len(box.leases("m/group/")) == 2, timeout=TIMEOUT, error=AssertionError)
        coming = [start("join", server.address, "train.py") for _ in range(3)]
        places = {tuple(map(int, line(each.stdout, r"trains (\d) (\d)").groups())): each for each in coming}
        assert sorted(places) == [(2, 3), (3, 4), (4, 5)]
        dies, leaves, stays = (places[rank, rank + 1] for rank in (2, 3, 4))
        for process in psutil.Process(dies.pid).children(recursive=True):
            process.kill()
        _, errors = dies.communicate(timeout=TIMEOUT)
        assert "was killed by SIGKILL" in errors
        leaves.send_signal(signal.SIGTERM)
        _, errors = leaves.communicate(timeout=TIMEOUT)
        assert leaves.returncode == 143
        assert "1/1 workers left in order" in errors
        box.value("enough").set(True)
        box.value("go 4").set(True)
        (some, said), (others, _) = rest(launched), rest(stays)
        ends = sorted(re.findall(r"ends (\d) (\d+) (\d) (\S+)", some + others))
    assert [rank for rank, *_ in ends] == ["0", "1", "4"]
    assert len({weight for *_, weight in ends}) == 1
    assert max(groups for _, _, groups, _ in ends) >= "3"
    assert "64/64 samples" in said
    report = said.partition("modum: 3 workers joined later\n")[2]
    assert re.sub(r" on \S+:", ":", report).splitlines() == [
        "  rank 2: was killed by SIGKILL (signal 9)",
        "  rank 3: left in order, as it was asked to",
        "  rank 4: done",
    ]


def test_memory_that_the_launcher_has_started_stays_for_who_has_joined(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(
        "import modum\nfrom modum.waiting import poll\n"
        "with modum.connect() as job:\n"
        "    if job.rank < job.launched:\n"
        "        print('there', flush=True)\n"
        "        poll(job.box.value('joined').get, timeout=100, error=AssertionError)\n"
        "    else:\n"
        "        job.box.value('joined').set(True)\n"
        "        poll(lambda: not job.awaited([0]), timeout=100, error=AssertionError)\n"
        "        print('alone', flush=True)\n"
        "        poll(job.box.value('end').get, timeout=100, error=AssertionError)\n"
    )
    token = new_token()
    with started("run", "-n", 1, "train.py", folder=tmp_path, token=token) as launched:
        address = line(launched.stderr, r"memory server \(([\d.:]+)")[1]
        line(launched.stdout, "there")
        with started("join", address, "train.py", folder=tmp_path, token=token) as joined:
            line(joined.stdout, "alone")
            line(launched.stderr, "the memory servers stay for workers that have joined: rank 1")
            with Box.connect(address, token=token) as box:
                box.value("end").set(True)
            rest(joined)
        assert re.search(r"1 worker joined later\n  rank 1 on \S+: done", rest(launched)[1])


def config(workers: int, *command: str) -> RunConfig:
    return RunConfig(command=command or ("train.py",), workers=workers, box=("10.0.0.5:7500",), joins=True)


def launch(box: Box, group_size: int = 1) -> Registration:
    return Registration(box, ModumRun(rank=0, world_size=4, local_rank=0, group_size=group_size))


def test_ranks_follow_those_of_the_launch_and_the_groups_are_of_its_size(connect: Connect) -> None:
    box = connect()
    launch(box, group_size=2)
    announce(box, config(4), Part(first=0, world_size=4, failure="failure"))
    (some, first), (_, second) = (join(connect(), config(2), lambda text: None) for _ in range(2))
    assert some.group_size == 2
    assert [(part.first, part.world_size, part.launched, part.failure) for part in (first, second)] == [
        (4, 6, 4, "failure"),
        (6, 8, 4, "failure"),
    ]
    with pytest.raises(ValueError, match=r"3 workers cannot join a job of groups of 2.*\nHINT: modum join -n 2"):
        join(box, config(3), lambda text: None)


def test_workers_that_many_hosts_bring_at_once_have_different_ranks(connect: Connect) -> None:
    launch(connect())
    boxes = [connect() for _ in range(4)]
    firsts: list[int] = []
    threads = [
        threading.Thread(target=lambda box=box: firsts.append(join(box, config(3), lambda text: None)[1].first))
        for box in boxes
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(firsts) == [4, 7, 10, 13]


def test_nobody_joins_a_job_that_has_ended(connect: Connect) -> None:
    box = connect()
    place = ModumRun(rank=4, world_size=5, local_rank=0, launched=4)
    for each in range(2):
        with pytest.raises(ModumError, match=r"no job without a name runs in this box.*\nHINT: begin one"):
            join(box, config(1), lambda text: None)
        with pytest.raises(ModumError, match="no job without a name"):
            Registration(box, place)
        if not each:
            launch(box).leave()


def test_a_worker_of_other_groups_is_refused_and_a_command_that_differs_is_told(connect: Connect) -> None:
    box = connect()
    launch(box, group_size=2)
    announce(box, config(4), Part(first=0, world_size=4))
    with pytest.raises(MismatchError, match="groups of 1 cannot join a job whose groups have 2 workers"):
        Registration(connect(), ModumRun(rank=4, world_size=5, local_rank=0, launched=4))
    said: list[str] = []
    join(box, config(2, "train.py", "--lr", "2"), said.append)
    join(box, config(2), said.append)
    assert said == [
        "the job was started as train.py, these workers as train.py --lr 2: what must agree is checked",
    ]


def test_nobody_joins_a_job_that_takes_checkpoints(connect: Connect, tmp_path: Path) -> None:
    box = connect()
    launch(box)
    resumed = RunConfig(command=("train.py",), workers=4, resume=SnapshotSettings(folder=tmp_path))
    announce(box, resumed, Part(first=0, world_size=4))
    with pytest.raises(ValueError, match=r"this job takes checkpoints .*\nHINT: start it with --snapshot-dir"):
        join(box, config(1), lambda text: None)
