"""`modum run --encrypt`, and workers that are launched with MODUM_ENCRYPT."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import modum
with modum.connect() as job:
    assert all(server.startswith("encrypt://") for server in job.box.servers), job.box.servers
    print("via", job.box.transports, job.box.counter("arrived").add(1))
"""


def run(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    script = folder / "train.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "modum", "run", *arguments, str(script)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_workers_find_the_encrypted_servers_of_their_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODUM_TRANSPORT", "tcp")
    done = run(tmp_path, "--encrypt", "-n", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("via ('tcp',)") == 2


def test_a_box_that_runs_already_is_not_encrypted_by_an_option(tmp_path: Path) -> None:
    done = run(tmp_path, "--encrypt", "--box", "10.0.0.5:7500")
    assert done.returncode == 2
    assert "--encrypt means nothing" in " ".join(done.stderr.split()).replace("│ ", "")
