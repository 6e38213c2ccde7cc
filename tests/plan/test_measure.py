"""Against a real memory server; the figures themselves depend on the machine."""

import os
import sys
from pathlib import Path

import pytest

from modum.plan import measure_copy, measure_step

SCRIPT = """
import time, modum
from modum.observe.progress import WorkerProgress
with modum.connect() as job:
    steps = 0
    progress = WorkerProgress(job.box, job.rank, job.world_size, clock=lambda: 0.25 * steps)
    while True:
        time.sleep(0.02)
        steps += 1
        progress.report(steps=1)
"""


def test_copies_have_a_speed() -> None:
    assert measure_copy(1 << 20) > 1e6


def test_a_step_is_timed_by_what_a_script_reports(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    assert measure_step([sys.executable, str(script)], os.environ) == 0.25


def test_a_script_that_ends_is_told(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("raise SystemExit(3)")
    with pytest.raises(ValueError, match="ended with status 3 after 0 steps"):
        measure_step([sys.executable, str(script)], os.environ)
