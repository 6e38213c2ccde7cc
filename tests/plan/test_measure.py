"""Against a real memory server; the figures themselves depend on the machine."""

import sys
from pathlib import Path

import pytest

from modum.box import Box, Server
from modum.plan import measure_bandwidth, measure_copy, measure_step

SCRIPT = """
import time, modum
from modum.observe.progress import WorkerProgress
with modum.connect() as job:
    progress = WorkerProgress(job.box, job.rank, job.world_size)
    while True:
        time.sleep(0.02)
        progress.report(steps=1)
"""


def test_copies_and_exchanges_have_a_speed() -> None:
    assert measure_copy(1 << 20) > 1e6
    with Server(token="measure") as server, Box.connect(server.address, token="measure", transport="tcp") as box:
        speed, trip = measure_bandwidth(box, 1 << 20)
        assert speed > 1e6
        assert 0 < trip < 10
        assert box.list() == []  # nothing stays in the box


def test_a_step_is_timed_by_what_a_script_reports(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    assert 0.02 <= measure_step([sys.executable, str(script)]) < 2


def test_a_script_that_ends_is_told(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("raise SystemExit(3)")
    with pytest.raises(ValueError, match="ended with status 3 after 0 steps"):
        measure_step([sys.executable, str(script)])
