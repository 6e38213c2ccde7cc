"""Stages in processes of their own: under `modum run`, and started by hand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from modum.box import Server
from tests.pipeline.workers import training

WORKERS = Path(__file__).parent / "workers"
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in (str(Path.cwd()), *sys.path) if path)}


def modum_run(workers: int, script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "modum", "run", "-n", str(workers), str(WORKERS / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        env=ENVIRONMENT,
    )


def test_a_killed_stage_ends_the_run_with_its_name() -> None:
    done = modum_run(3, "dying.py")
    assert done.returncode == 128 + 9, done.stderr
    assert re.search(r"rank 1\b.* was killed by SIGKILL (?s:.*)the others were stopped", done.stderr), done.stderr


def test_without_a_launcher_the_other_stages_find_it_out_and_name_it() -> None:
    with Server(memory=1 << 24) as server:
        variables = {**ENVIRONMENT, "WORLD_SIZE": "3", "MODUM_BOX": server.address}
        started = [
            subprocess.Popen(
                [sys.executable, WORKERS / "dying.py"],
                env={**variables, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(3)
        ]
        try:
            ends = [worker.communicate(timeout=60) for worker in started]
        finally:
            for worker in started:
                worker.kill()
                worker.wait()
    assert [worker.returncode for worker in started] == [1, -9, 1]
    assert ends[1][0].split() == ["0", "1", "2"]
    for rank in (0, 2):
        last = ends[rank][1].splitlines()[-1]
        assert last.startswith("modum.errors.StageError: stage 1 of 3 (rank 1): its process has ended"), ends[rank][1]


def test_a_model_that_was_trained_in_stages_is_a_plain_one(tmp_path: Path) -> None:
    done = modum_run(2, "training.py", tmp_path / "model.pt")
    assert done.returncode == 0, done.stderr
    model = training.network()
    model.load_state_dict(torch.load(tmp_path / "model.pt"))
    loss = nn.functional.cross_entropy(model.eval()(training.DATA), training.LABELS).item()
    told = sorted(line.split()[1:] for line in done.stdout.splitlines() if line.startswith("["))
    assert [float(line[0]) for line in told] == pytest.approx([loss, loss], rel=1e-5)
    assert sum(int(line[1]) for line in told) == 5
    assert loss < 0.5
