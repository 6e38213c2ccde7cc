"""The benchmark of pipelines, small: what is checked is its arithmetic, and that it runs."""

import pytest
from bench import pipeline
from bench.row import Effort


def test_the_slowest_stage_is_the_measure() -> None:
    results = [
        {"batches": 10, "seconds": 1.0, "computed": 0.7, "waited": 0.3},
        {"batches": 10, "seconds": 1.0, "computed": 0.8, "waited": 0.2},
    ]
    row = pipeline.row_of("local", 0, results, quiet=True)
    assert row.measured == 0.8
    assert not row.ok
    assert "10.0 batches/s, one stage alone 12.5" in row.detail
    assert "waited per batch, by stage: 30.0, 20.0 ms" in row.detail


def test_the_benchmark_runs_over_both_transports(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("STAGES", 2), ("SECONDS", 0.003), ("BATCHES", 8)):
        monkeypatch.setattr(pipeline, name, value)
    rows = list(pipeline.measure(Effort(rounds=1)))
    assert [row.what.split("stages ")[1].split(",")[0] for row in rows] == ["(local)", "(tcp)", "(tcp"]
    assert all(0 < row.measured <= 1.01 for row in rows)
