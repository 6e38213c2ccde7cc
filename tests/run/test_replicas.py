"""`modum run --replicas 2` goes on when a memory server is killed, and starts it again; nothing is lost."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from tests.processes import TIMEOUT

from modum.run import RunConfig

WORK = """
import modum, numpy as np
from modum.waiting import poll

with modum.connect() as job:
    backed = lambda: all(server.stand.backup >= 0 for server in job.box.statistics().servers)
    poll(backed, timeout=60.0, error=lambda: AssertionError("no backup"))
    numbers = job.box.open_or_create("numbers", 300_000)
    if job.rank == 0:
        print("ready", flush=True)
    for _ in range(400):
        numbers.add(np.ones(300_000, np.float32))
        job.box.counter("adds").add(1)
    job.box.counter("adds").wait(800, timeout=60)
    if job.rank == 0:
        seen = numbers.read()
        print("sum", seen.min(), seen.max(), flush=True)
"""


def test_killed_memory_servers_are_replaced_and_no_add_is_lost(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(WORK)
    command = [sys.executable, "-m", "modum", "run", "-n", "2", "--servers", "3", "--replicas", "2", "work.py"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as launcher:
        try:
            assert launcher.stdout is not None
            assert launcher.stdout.readline() == "[0] ready\n"
            servers = [
                child for child in psutil.Process(launcher.pid).children() if "--replicas" in child.cmdline()[4:]
            ]
            assert len(servers) == 3
            os.kill(servers[1].pid, signal.SIGKILL)
            told, errors = launcher.communicate(timeout=TIMEOUT)
        finally:
            launcher.kill()
    assert launcher.returncode == 0, errors
    assert told == "[0] sum 800.0 800.0\n"
    assert "was killed by SIGKILL (signal 9); the others go on, and it is started again" in errors


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"replicas": 3}, "must be 1 or 2"),
        ({"replicas": 2, "servers": 2}, "at least 3 memory servers, not 2.*\nHINT: --servers 3"),
        ({"replicas": 2, "box": ("10.0.0.5:7500",), "token": "x" * 20}, "a box is used that runs already"),
        ({"replicas": 2, "servers": 3, "restore": Path()}, "no snapshots"),
    ],
)
def test_replicas_that_cannot_be_had_are_refused(settings: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        RunConfig(command=("train.py",), **settings)  # type: ignore[arg-type]
