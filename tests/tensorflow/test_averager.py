"""Loops of one's own on TensorFlow; the checks are in `workers/averager.py`."""

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "workers" / "averager.py"
CHECKS = re.findall(r"^def (\w+)\(connect: ", SCRIPT.read_text(), re.MULTILINE)

pytestmark = pytest.mark.timeout(300)  # the first test waits for the checks of all


@cache
def outcomes() -> dict[str, str | None]:
    """Each check by name: None, or how it failed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", SCRIPT],
        env={
            **os.environ,
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(path for path in (str(Path.cwd()), *sys.path) if path),
        },
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    if done.returncode != 0:
        return dict.fromkeys(CHECKS, done.stderr)
    found: dict[str, str | None] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("check", CHECKS)
def test_averager(check: str) -> None:
    failure = outcomes()[check]
    assert failure is None, failure
