import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from modum.cli.simulate import app

SMALL = ("10MB", "-n", "4", "--steps", "20", "--link", "1GB/s")


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "160", "TERM": "dumb"})
    return result.exit_code, result.output


def test_rules_stand_side_by_side(tmp_path: Path) -> None:
    plot = tmp_path / "job.png"
    options = ("--rule", "elastic", "--rule", "allreduce", "--train", "--plot", str(plot))
    # a process of its own: matplotlib keeps its fonts open
    command = [sys.executable, "-m", "modum", "simulate", *SMALL, *options]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert finished.returncode == 0, finished.stderr
    assert "elastic" in finished.stdout
    assert "allreduce" in finished.stdout
    assert "final accuracy" in finished.stdout
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_every_value_for_programs() -> None:
    options = ("--stragglers", "1x4", "--failures", "1h", "--replace", "30s", "--join", "2@1s", "--json")
    status, text = invoke(*SMALL, *options)
    assert status == 0, text
    (report,) = json.loads(text)
    assert report["scenario"]["stragglers"] == 1
    assert report["scenario"]["slowdown"] == 4
    assert report["scenario"]["failure_seconds"] == 3600
    assert report["scenario"]["joiners"] == 2
    assert report["steps"] == 80
    assert report["staleness"]["largest"] >= 1


def test_a_job_that_died_out_is_an_error() -> None:
    status, text = invoke(*SMALL, "--failures", "2s", "--steps", "1000")
    assert status == 1
    assert "its workers had failed" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-n", "20000"), "at most 10000"),
        (("--rule", "easgd"), "elastic, drift, downpour, allreduce"),
        (("--stragglers", "1xfast"), "fast"),
        (("--plot", "job.pdf"), ".png"),
        (("--join", "4@soon"), "not a time"),
    ],
)
def test_a_mistake_is_told(arguments: tuple[str, ...], message: str) -> None:
    status, text = invoke(*arguments)
    assert status == 2
    assert message in text
