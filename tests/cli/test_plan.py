import json

import pytest
from typer.testing import CliRunner

from modum.cli.plan import app


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "120", "TERM": "dumb", "MODUM_BOX": ""})
    assert result.exit_code == 0, result.output
    return result.output


def test_the_example_of_the_original_platform() -> None:
    text = run("100MB", "--step", "200ms", "-n", "16", "--link", "7GB/s", "--server-memory", "100GB/s")
    assert "3.2 GB in and out" in text
    assert "16 GB/s (128 Gbit/s)" in text
    assert "2 steps" in text
    assert "server link saturates first" in text


def test_every_value_for_programs() -> None:
    plan = json.loads(run("100MB", "-n", "16", "--group-size", "4", "--servers", "2", "--json"))
    assert plan["step_bytes"] == 3.2e9
    assert plan["cluster"]["group_size"] == 4
    assert plan["bottleneck"] == plan["places"][0]
    assert 0 < plan["efficiency"] < 1


def test_a_synchronous_job_has_no_box() -> None:
    text = run("100MB", "--rule", "allreduce")
    assert "ring all-reduce" in text
    assert "server" not in text


def test_without_a_box_only_this_machine_is_measured() -> None:
    text = run("100MB", "--measure")
    assert "measured here: copies" in text
    assert "MODUM_BOX names no box" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet",), "neither a file nor an amount"),
        (("100MB", "--step", "soon"), "not a time"),
        (("100MB", "--link", "10"), "not a speed"),
        (("100MB", "-n", "6", "--group-size", "4"), "must divide"),
        (("100MB", "--interval", "often"), "often"),
        (("100MB", "--command", "python train.py"), "--measure"),
    ],
)
def test_a_mistake_is_told(arguments: tuple[str, ...], message: str) -> None:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exit_code == 2
    assert message in result.output
