"""`modum run` tells at the end of workers that have trained alone; the exit status is the script's."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.processes import TIMEOUT

STEPS = """
import modum, numpy as np
from modum.averaging import LearningRateScale, Worker
from modum.groups import Alone
from modum.parameters import ArrayVector
from modum.rules import Elastic

with modum.connect() as job:
    vector = ArrayVector(np.zeros(4, np.float32))
    worker = Worker.join(job, Elastic(interval=1), [vector], Alone(), name="m", scale=LearningRateScale(), model={})
    worker.stepped()
    worker.finish()
    worker.close()
"""


def run(folder: Path, workers: int, script: str) -> "subprocess.CompletedProcess[str]":
    path = folder / "train.py"
    path.write_text(script)
    command = [sys.executable, "-m", "modum", "run", "-n", str(workers), path.name]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False, cwd=folder)


def test_workers_that_never_connect_are_named(tmp_path: Path) -> None:
    result = run(tmp_path, 3, "print('trained')")
    assert result.returncode == 0
    assert result.stderr.endswith(
        "modum: 3/3 workers done\n"
        "modum: ranks 0 to 2 never called modum.connect(), and shared nothing with the others\n"
        "HINT: call job = modum.connect() in train.py, and give the job to an Averager\n"
    )


def test_one_that_does_not_is_named_beside_one_that_shares(tmp_path: Path) -> None:
    only = "import os\nif os.environ['MODUM_RANK'] == '1': raise SystemExit(0)\n"
    result = run(tmp_path, 2, only + STEPS)
    assert result.returncode == 0, result.stderr
    assert "modum: rank 1 never called modum.connect(), and shared nothing with the others\n" in result.stderr


def test_workers_that_connect_and_take_no_step_are_named(tmp_path: Path) -> None:
    result = run(tmp_path, 2, "import modum\nwith modum.connect(): pass")
    assert result.returncode == 0
    assert (
        "modum: ranks 0 and 1 connected, but no averager took a step: no weights were shared\nHINT: " in result.stderr
    )


BOX_ALONE = """
import modum, numpy as np
with modum.connect() as job:
    sums = job.box.open_or_create("sums", 4)
    sums.add(np.ones(4, np.float32))
"""


@pytest.mark.parametrize(
    ("workers", "script", "status"),
    [(2, STEPS, 0), (2, BOX_ALONE, 0), (1, "print('trained')", 0), (2, "raise SystemExit(3)", 3)],
    ids=["all is well", "numbers of its own", "one worker", "a failure says more"],
)
def test_else_nothing_is_said(tmp_path: Path, workers: int, script: str, status: int) -> None:
    result = run(tmp_path, workers, script)
    assert result.returncode == status, result.stderr
    assert "connect" not in result.stderr
    assert "averager" not in result.stderr
