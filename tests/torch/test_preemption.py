"""Workers that SIGTERM asks to leave end their loops in order, and what they have not done goes to the others."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from modum.box import Box, Server
from modum.samples import SharedSamples
from tests.processes import TIMEOUT, assert_gone

WORKER = Path(__file__).parent / "workers" / "preempted.py"
TOKEN = "t" * 32
RARE = 10**6
"""An interval that no loop comes to: all that is exchanged is exchanged at the end."""


class End(NamedTuple):
    """What a worker has printed at its end."""

    samples: list[int]
    steps: int
    leaving: bool


class Run:
    """A launcher whose workers have each trained on their first batch."""

    def __init__(self, box: Server, workers: int, *arguments: object, options: tuple[str, ...] = ()) -> None:
        command = [sys.executable, "-m", "modum", "run", "--box", box.address, "-n", str(workers), *options]
        self.launcher = subprocess.Popen(
            [*command, str(WORKER), *map(str, arguments)],
            env={**os.environ, "MODUM_TOKEN": TOKEN, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.pids: dict[int, int] = {}
        assert self.launcher.stdout is not None
        for _ in range(workers):
            line = self.launcher.stdout.readline()
            match = re.fullmatch(r"\[(\d)\] (\d+)\n", line)
            assert match, line + self.launcher.communicate()[1]
            self.pids[int(match[1])] = int(match[2])
        self.family = psutil.Process(self.launcher.pid).children(recursive=True)

    def end(self) -> tuple[dict[int, "End"], str]:
        """What each worker has printed at its end, by rank, and what the launcher has said."""
        output, errors = self.launcher.communicate(timeout=TIMEOUT)
        return {int(line[1]): End(*json.loads(line[4:])) for line in output.splitlines()}, errors


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(token=TOKEN, memory=2**26) as server:
        yield server


@contextmanager
def preempted(server: Server, workers: int, *arguments: object, options: tuple[str, ...] = ()) -> Iterator[Run]:
    run = Run(server, workers, *arguments, options=options)
    try:
        yield run
    finally:
        run.launcher.kill()
    assert_gone(run.family)


def trained(ends: dict[int, End]) -> list[int]:
    return [sample for end in ends.values() for sample in end.samples]


def left(server: Server, size: int) -> list[int]:
    """The samples that the workers have left to others."""
    with Box.connect(server.address, token=TOKEN) as box:
        pool = SharedSamples(box, size=size, batch_size=4, block=40, name="model/samples/0", timeout=5)
        return [int(sample) for batch in pool for sample in batch]


def weights(server: Server) -> float:
    with Box.connect(server.address, token=TOKEN) as box:
        return float(box.open("model/float32").read()[0])


def test_a_launcher_that_is_asked_to_stop_has_all_workers_leave_in_order(server: Server) -> None:
    with preempted(server, 2, 400, RARE, 0, 1) as run:
        run.launcher.send_signal(signal.SIGTERM)
        ends, errors = run.end()
        assert run.launcher.returncode == 143, errors
    assert all(end.leaving for end in ends.values())
    assert [end.steps for end in ends.values()] == [1, 1]
    assert "stopped by SIGTERM: the workers have 30 s to leave (--grace)" in errors
    assert "stopped by SIGTERM; 2/2 workers left in order" in errors
    assert sorted(trained(ends) + left(server, 400)) == list(range(400))
    assert weights(server) == 0.75  # 1/2 of the first one's step, then the other's has moved it half way


def test_one_worker_leaves_and_the_others_do_its_samples(server: Server) -> None:
    with preempted(server, 4, 400, RARE, 2) as run:
        os.kill(run.pids[2], signal.SIGTERM)
        ends, errors = run.end()
        assert run.launcher.returncode == 0, errors
    assert "rank 2 leaves, as it or its group was asked to: its last exchange is done" in errors
    assert {rank: end.leaving for rank, end in ends.items()} == {0: False, 1: False, 2: True, 3: False}
    assert len(ends[2].samples) == 4  # its first batch alone
    assert sorted(trained(ends)) == list(range(400))
    assert left(server, 400) == []


def test_a_group_leaves_with_the_member_that_was_asked(server: Server) -> None:
    with preempted(server, 4, 400, 1, 1, options=("--group-size", "2")) as run:
        os.kill(run.pids[1], signal.SIGTERM)
        ends, errors = run.end()
        assert run.launcher.returncode == 0, errors
    assert {rank: end.leaving for rank, end in ends.items()} == {0: True, 1: True, 2: False, 3: False}
    assert ends[0].steps == ends[1].steps
    assert sorted(trained(ends)) == list(range(400))
