"""The abuses in attacks/, each tried on a server of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ATTACKS = Path(__file__).parents[2] / "attacks"
SUPPORT = ("victim",)

# What is not stopped yet. A mark goes when the attack is stopped: the test fails then.
OPEN = {
    "slots": "a connection may keep 4 MiB, and how many there are together is limited to 4096 times 256 alone",
}


def attacks() -> list[object]:
    """Return all attacks, with marks for those which are not stopped."""
    return [
        pytest.param(name, marks=[pytest.mark.xfail(strict=True, reason=OPEN[name])] if name in OPEN else [])
        for name in sorted(path.stem for path in ATTACKS.glob("*.py"))
        if name not in SUPPORT
    ]


@pytest.mark.parametrize("name", attacks())
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
