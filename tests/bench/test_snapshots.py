"""The benchmark of snapshots, on a small buffer."""

import os
import subprocess
import sys
from pathlib import Path

from tests.docs.scripts import ROOT


def test_it_says_what_a_snapshot_costs_and_how_long_restoring_takes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.snapshots", "--size", "40MB", "--snapshots", "1", "--folder", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=100, env=dict(os.environ), check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[1].startswith("a snapshot of 38.1 MiB with no client: ")
    assert [line.partition(":")[0] for line in lines[3:5]] == ["local", "tcp"]
    assert len([line for line in lines if line.startswith("a server is ready after ")]) == 3
    assert list(tmp_path.iterdir()) == []
