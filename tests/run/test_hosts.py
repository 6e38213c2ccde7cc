"""A launcher on each of several machines, and one job: the box gives them their ranks."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cluster.hosts import Hosts, address, ended
from tests.processes import TIMEOUT
from tests.support import until

from modum.box import Box, new_token
from modum.coordination import Roster
from modum.errors import MismatchError
from modum.run import RunConfig
from modum.run.hosts import Part, meet

Connect = Callable[[], Box]
MODUM = [sys.executable, "-m", "modum"]
TRAIN = """
import modum
with modum.connect() as job:
    every = job.rendezvous("all").gather([job.rank, job.local_rank])
    print(job.rank, job.world_size, every)
"""
FAILING = """
import sys, time, modum
with modum.connect() as job:
    job.rendezvous("all").barrier()
    if job.rank == 2:
        sys.exit(7)
    time.sleep(600)
"""


def config(workers: int, hosts: int = 2, group_size: int = 1) -> RunConfig:
    return RunConfig(command=("train.py",), workers=workers, hosts=hosts, group_size=group_size, box=("10.0.0.5:7500",))


def test_ranks_are_given_in_the_order_in_which_hosts_come(connect: Connect) -> None:
    parts: dict[int, Part] = {}
    said: list[str] = []

    def come(workers: int) -> None:
        parts[workers] = meet(connect(), config(workers), said.append)

    threads = [threading.Thread(target=come, args=(workers,)) for workers in (3, 2)]
    threads[0].start()
    until(lambda: len(said) == 1)
    threads[1].start()
    for thread in threads:
        thread.join()
    assert said == ["waiting for 2 hosts; start on each of them: " + said[0].partition(": ")[2]]
    assert "modum run --box 10.0.0.5:7500 --hosts 2 -n WORKERS train.py" in said[0]
    assert [(parts[workers].first, parts[workers].world_size) for workers in (3, 2)] == [(0, 5), (3, 5)]
    assert connect().leases() == []


def test_a_host_that_died_while_it_waited_has_no_ranks(connect: Connect) -> None:
    dead = connect()
    came = dead.counter("modum/hosts/came").add(1)
    Roster(dead, "modum/hosts").join(f"{came:08d} 9 2 1 dead", timeout=0)
    parts: list[Part] = []
    threads = [
        threading.Thread(target=lambda: parts.append(meet(connect(), config(1), lambda text: None))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    dead.close()
    for thread in threads:
        thread.join()
    assert sorted(part.first for part in parts) == [0, 1]
    assert {part.world_size for part in parts} == {2}


def test_hosts_that_disagree_are_refused(connect: Connect) -> None:
    there = connect()
    Roster(there, "modum/hosts").join("00000000 1 3 1 node1", timeout=0)
    with pytest.raises(MismatchError, match=r"--hosts 2 and --group-size 1, but node1 with --hosts 3"):
        meet(connect(), config(1), lambda text: None)


def test_several_hosts_need_a_box_that_all_reach() -> None:
    with pytest.raises(ValueError, match=r"2 hosts need a box .*\nHINT: start `modum server --host ADDRESS`"):
        RunConfig(command=("train.py",), hosts=2)


def test_two_machines_are_one_job_and_stop_together(tmp_path: Path) -> None:
    for name, text in {"train": TRAIN, "failing": FAILING}.items():
        (tmp_path / f"{name}.py").write_text(text)
    environment = {**os.environ, "MODUM_TOKEN": new_token(), "OMP_NUM_THREADS": "1"}
    with Hosts(tmp_path) as hosts:
        server = [*MODUM, "server", "--host", address(1), "--port", "7500", "--memory", "16MiB"]

        def run(host: int, workers: int, script: str) -> "subprocess.Popen[str]":
            options = ["--box", f"{address(1)}:7500", "--name", script, "--hosts", "2", "-n", str(workers)]
            return hosts.start(host, [*MODUM, "run", *options, tmp_path / f"{script}.py"], environment)

        with ended(hosts.start(1, server, environment)) as running:
            assert running.stdout is not None
            assert address(1) in running.stdout.readline()
            with ended(run(1, 2, "train")) as first, ended(run(2, 1, "train")) as second:
                (some, errors), (others, more) = (each.communicate(timeout=TIMEOUT) for each in (first, second))
            assert (first.returncode, second.returncode) == (0, 0), errors + more
            said = sorted((some + others).splitlines())
            assert [line.split()[:3] for line in said] == [[f"[{rank}]", str(rank), "3"] for rank in range(3)]
            locals_ = {"0": [[0, 0], [1, 1], [2, 0]], "1": [[0, 0], [1, 0], [2, 1]]}  # whoever came first
            assert said[0].split(" ", 3)[3] in map(str, locals_.values())
            assert "on 2 hosts" in errors

            with ended(run(1, 2, "failing")) as first, ended(run(2, 2, "failing")) as second:
                (_, errors), (_, more) = (each.communicate(timeout=TIMEOUT) for each in (first, second))
            assert sorted((first.returncode, second.returncode)) == [1, 7]
            assert "the job was stopped on another host: rank 2 (pid" in errors + more
