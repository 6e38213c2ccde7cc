"""The real benchmarks, small: what is checked is the table, not the figures."""

import json
import subprocess
import sys

import pytest
from bench.processes import ROOT
from bench.suite import BENCHMARKS

FAST = ("exchange", "tcp", "small", "memory")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_the_fast_benchmarks_make_rows_for_machines() -> None:
    finished = run("--only", ",".join(FAST), "--size", "2MiB", "--rounds", "1", "--json")
    assert finished.returncode == 0, finished.stderr
    result = json.loads(finished.stdout)
    assert set(result["machine"]) == {"date", "processor", "memory", "system", "packages"}
    assert result["effort"] == {"nbytes": 2 << 20, "rounds": 1}
    assert 0 <= result["others"] <= 1
    rows = result["rows"]
    assert list(dict.fromkeys(row["benchmark"] for row in rows)) == list(FAST)
    for row in rows:
        if row["at_least"] is not None:
            assert row["ok"] == (row["measured"] >= row["at_least"])
        else:
            assert row["ok"] == (row["measured"] <= row["at_most"])
        assert all(seconds > 0 for side in row["samples"].values() for seconds in side)
    assert [row["what"] for row in rows if row["benchmark"] == "small"] == [
        "small operations (4 KiB), local, slowest median",
        "small operations (4 KiB), tcp, slowest median",
    ]
    sides = {row["benchmark"]: set(row["samples"]) for row in rows}
    assert sides == {
        "exchange": {"pass", "exchange"},
        "tcp": {"plain", "exchange"},
        "small": {"read", "write", "add", "exchange"},
        "memory": set(),
    }


def test_the_table_names_the_machine_the_bar_and_the_verdict() -> None:
    finished = run("--only", "tcp", "--size", "1MiB", "--rounds", "1")
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.startswith("date: ")
    assert "transfers of 1.04858 MB float32, medians of 1 rounds" in finished.stdout
    assert "tcp exchange" in finished.stdout
    assert "at least 0.9" in finished.stdout
    assert "GB/s" in finished.stdout


def test_help_lists_every_benchmark() -> None:
    text = run("--help").stdout
    assert all(f"{name}: {benchmark.about}" in text for name, benchmark in BENCHMARKS.items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--only", "exchange,rdma"), "rdma: not among exchange, gloo"), (("--size", "many"), "many")],
)
def test_a_mistake_is_told_before_anything_runs(arguments: tuple[str, ...], message: str) -> None:
    finished = run(*arguments)
    assert finished.returncode == 2
    assert message in finished.stderr
