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


@pytest.mark.timeout(600)
def test_servers_that_stand_in_for_each_other_lose_nothing_in_any_world() -> None:
    played = subprocess.run(
        [sys.executable, "-m", "tests.simulation", "--replicas", "200"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    told = f"{played.stdout}{played.stderr}\npython -m tests.simulation --replicas --replay SEED shows it"
    assert played.returncode == 0, told
    assert "200 worlds" in played.stdout


AFTER_ANOTHER = """
import tempfile
from tests.simulation.world import play
play(4)
print(play(3, print).wrong or "right")
"""


def test_a_seed_makes_the_same_world_again() -> None:
    """Whatever the order of Python's sets, and what was imported, played or collected before."""
    told = [
        subprocess.run(
            [sys.executable, *command],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed, command in (("1", ["-m", "tests.simulation", "--replay", "3"]), ("2", ["-c", AFTER_ANOTHER]))
    ]
    assert told[0] == told[1]
    assert told[0]
