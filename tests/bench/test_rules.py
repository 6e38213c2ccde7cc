"""The comparison of rules: what it trains is trained, and what was measured is kept."""

from pathlib import Path

import numpy as np
import pytest
import torch
from bench.rules.runs import Results, Run
from bench.rules.tasks import TASKS, Task

from modum.simulate import Moment


@pytest.mark.parametrize("name", ["cnn", "lstm", "tiny"])
def test_a_learner_trains_the_weights_that_it_was_given(name: str) -> None:
    task: Task = TASKS[name](0)
    weights = task.shared.copy()
    learner = task.learner(weights, 2)
    model = task.bound(weights)
    chosen = task.take(256)
    before = task.loss(model, chosen).item()
    for step in range(30):
        learner.step(Moment(step / 30, step, 1))

    assert task.loss(model, chosen).item() < before - 0.1
    assert task.shared.size == sum(each.numel() for each in model.parameters()) + task.statistics
    assert not np.array_equal(weights, task.shared)


def test_the_statistics_of_a_batch_normalization_are_the_end_of_the_weights() -> None:
    task: Task = TASKS["cnn"](0)
    weights = task.shared.copy()
    task.learner(weights, 1).step(Moment(0.0, 0, 1))

    assert task.statistics == 2 * (16 + 32)
    assert (weights[-task.statistics :] != task.shared[-task.statistics :]).all()


def test_learners_draw_from_one_order_of_the_data() -> None:
    task: Task = TASKS["cnn"](0)
    drawn = torch.cat([task.take(7) for _ in range(task.samples // 7 + 1)])

    assert len(set(drawn[: task.samples].tolist())) == task.samples


def test_what_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    run = Run(task="cnn", workers=2, rule="drift", interval=4)
    file = tmp_path / "results.jsonl"
    file.write_text(
        '{"task": "cnn", "workers": 2, "group_size": 1, "rule": "drift", "interval": 4, "scale": "none",'
        ' "slowdown": 1.0, "seed": 0, "result": 88.5}\n'
    )
    results = Results(file)

    assert list(results.measure([run])) == []
    assert results[run] == 88.5


def test_a_run_averages_as_a_job_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TASKS["tiny"], "steps", 24)
    alone, together = Run(task="tiny"), Run(task="tiny", workers=4, rule="drift", interval=2, scale="sqrt")

    assert -5 < together.play() < 0
    assert together.play() == together.play()
    assert together.play() != alone.play()
