"""Runs the tests that need RDMA devices in a virtual machine that has emulated ones: `make test-rdma`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BOOT = ROOT / "scripts" / "softroce" / "boot.py"
CANNOT = 77


@pytest.mark.timeout(420)
def test_everything_that_needs_devices_passes_in_a_machine_that_has_them(capfd: pytest.CaptureFixture[str]) -> None:
    done = subprocess.run(
        [sys.executable, str(BOOT), "bash", "tests/rdma/guest.sh", sys.executable],
        cwd=ROOT,
        env={**os.environ, "SOFTROCE_LIMIT": "330"},  # it ends by itself, and leaves nothing
        timeout=400,
        check=False,
    )
    said = capfd.readouterr().out
    if done.returncode == CANNOT:
        pytest.skip(said.strip().rpartition("\n")[2])
    print(said)
    assert done.returncode == 0, "the tests failed in the machine: its console is below"
    with capfd.disabled():
        print("\n" + "\n".join(line for line in said.splitlines() if line.startswith("rdma:")))
