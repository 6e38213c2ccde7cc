"""The abuses in attacks/, each tried on a server of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ATTACKS = Path(__file__).parents[2] / "attacks"
SUPPORT = ("victim",)


@pytest.mark.parametrize("name", sorted({path.stem for path in ATTACKS.glob("*.py")} - {*SUPPORT}))
def test_an_attack_is_stopped(name: str) -> None:
    ended = subprocess.run(
        [sys.executable, str(ATTACKS / f"{name}.py")],
        capture_output=True,
        text=True,
        timeout=100,
        env={each: value for each, value in os.environ.items() if each != "MODUM_TOKEN"},
        check=False,
    )

    assert ended.stdout.startswith("stopped: "), ended.stdout + ended.stderr
    assert ended.returncode == 0
