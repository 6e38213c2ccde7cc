"""`modum run` gives its workers a time of grace, and no more."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from tests.processes import TIMEOUT, assert_gone

RUN = [sys.executable, "-m", "modum", "run"]
KEEPS_ON = """
import os, signal
import modum

with modum.connect() as job:
    print(os.getpid(), flush=True)
    while True:
        signal.pause()
"""
LEAVES = """
import os
import modum
from modum.waiting import poll

with modum.connect() as job:
    print(os.getpid(), flush=True)
    poll(lambda: job.stopping, timeout=100, error=AssertionError)
    job.box.value("seen").set(True)  # the memory is there to the end of the grace
    print("leaves", flush=True)
"""


class Started:
    """A launcher, once each of its workers has said its process id."""

    def __init__(self, script: Path, text: str, grace: str) -> None:
        script.write_text(text)
        self.launcher = subprocess.Popen(
            [*RUN, "-n", "2", "--grace", grace, str(script)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.launcher.stdout is not None
        lines = [re.fullmatch(r"\[(\d)\] (\d+)\n", self.launcher.stdout.readline()) for _ in range(2)]
        self.pids = {int(line[1]): int(line[2]) for line in lines if line}
        self.family = psutil.Process(self.launcher.pid).children(recursive=True)

    def end(self) -> tuple[int, str, str]:
        try:
            output, errors = self.launcher.communicate(timeout=TIMEOUT)
        finally:
            self.launcher.kill()
        assert_gone(self.family)
        return self.launcher.returncode, output, errors


@pytest.fixture
def script(tmp_path: Path) -> Path:
    return tmp_path / "train.py"


def test_workers_that_keep_on_are_killed_at_the_end_of_the_grace(script: Path) -> None:
    run = Started(script, KEEPS_ON, "500ms")
    run.launcher.send_signal(signal.SIGTERM)
    status, _, errors = run.end()
    assert status == 143
    assert "stopped by SIGTERM: the workers have 0.5 s to leave (--grace)" in errors
    assert re.search(r"stopped by SIGTERM; 0/2 workers left in order", errors)


def test_a_worker_that_keeps_on_is_killed_and_the_job_fails_by_it(script: Path) -> None:
    run = Started(script, KEEPS_ON, "500ms")
    os.kill(run.pids[1], signal.SIGTERM)
    status, _, errors = run.end()
    assert status == 128 + signal.SIGKILL
    assert "still here 0.5 s after SIGTERM, which is the grace (modum run --grace): killed" in errors
    assert re.search(r"rank 1 \(pid \d+\) was killed by SIGKILL \(signal 9\); the others were stopped", errors)


@pytest.mark.parametrize("everybody", [False, True], ids=["the launcher", "every process"])
def test_workers_that_leave_have_their_memory_to_the_end(script: Path, everybody: bool) -> None:
    run = Started(script, LEAVES, "100s")
    if everybody:  # as Slurm and systemd do
        for process in run.family:
            if process.pid not in run.pids.values() and "server" in process.cmdline():
                process.terminate()
        for pid in run.pids.values():
            os.kill(pid, signal.SIGTERM)
    run.launcher.send_signal(signal.SIGTERM)
    status, output, errors = run.end()
    assert sorted(output.splitlines()) == ["[0] leaves", "[1] leaves"]
    assert status == 143, errors
    assert "2/2 workers left in order" in errors


def test_a_second_request_ends_all_at_once(script: Path) -> None:
    run = Started(script, KEEPS_ON, "1h")
    assert run.launcher.stderr is not None
    run.launcher.send_signal(signal.SIGTERM)
    while "to leave (--grace)" not in run.launcher.stderr.readline():
        pass
    run.launcher.send_signal(signal.SIGTERM)
    assert run.end()[0] == 143


def test_a_grace_of_no_time_is_refused(script: Path) -> None:
    script.write_text("")
    for grace in ("0s", "soon"):
        result = subprocess.run(
            [*RUN, "--grace", grace, str(script)], capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
        assert result.returncode == 2
        assert "grace (0 s) must be positive" in result.stderr or "'soon' is not a time" in result.stderr
