"""Contract, as a whole: in no world that is played is a promise broken."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(600)
def test_the_box_keeps_its_word_in_every_world() -> None:
    played = subprocess.run(
        [sys.executable, "-m", "tests.simulation", "2000"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert played.returncode == 0, f"{played.stdout}{played.stderr}\npython -m tests.simulation --replay SEED shows it"
    assert "2000 worlds" in played.stdout


def test_a_seed_makes_the_same_world_again() -> None:
    """Whatever the order of Python's sets: what happens in it is printed, and is the same."""
    told = [
        subprocess.run(
            [sys.executable, "-m", "tests.simulation", "--replay", "3"],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert told[0] == told[1]
    assert told[0]
