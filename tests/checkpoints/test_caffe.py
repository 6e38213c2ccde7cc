"""`modum run --resume D -m modum caffe train`: a solver goes on in its iterations, its history and its data."""

import io
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from modum import Job
from modum.box import Box
from modum.box.snapshots.folder import snapshots_in
from modum.box.snapshots.manifest import read_manifest, read_signed
from modum.caffe import Solver, read_solver
from modum.caffe.sharing import STOPPED
from modum.caffe.solver import Action
from modum.checkpoints.files import RECORD, WORKERS, Record, read_state
from tests.checkpoints.killing import Run
from tests.processes import TIMEOUT
from tests.support import until

NET = """name: "small"
layer { name: "data" type: "HDF5Data" top: "x" top: "label"
        hdf5_data_param { source: "files.txt" batch_size: 32 shuffle: true } }
layer { name: "noise" type: "DummyData" top: "noise"
        dummy_data_param { shape { dim: 32 dim: 256 } data_filler { type: "gaussian" std: 0.1 } } }
layer { name: "sum" type: "Eltwise" bottom: "x" bottom: "noise" top: "sum" }
layer { name: "ip1" type: "InnerProduct" bottom: "sum" top: "ip1"
        inner_product_param { num_output: 256 weight_filler { type: "xavier" } } }
layer { name: "drop" type: "Dropout" bottom: "ip1" top: "ip1" }
layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
        inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }
"""
SOLVER = """net: "net.prototxt" base_lr: 0.002 lr_policy: "multistep" gamma: 0.9 stepvalue: 10 stepvalue: 20
type: "Adam" momentum: 0.9 momentum2: 0.999 display: 1 average_loss: 3 random_seed: 3 snapshot_prefix: "snap"
"""


@pytest.fixture(autouse=True)
def _files(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["x"] = random.normal(size=(50, 256)).astype(np.float32)
        file["label"] = random.integers(0, 3, 50).astype(np.float32)
    (tmp_path / "files.txt").write_text("data.h5\n")
    (tmp_path / "net.prototxt").write_text(NET)


def train(folder: Path, workers: int, *, group_size: int = 1, iterations: int, interval: int = 4) -> Run:
    (folder / "solver.prototxt").write_text(f"{SOLVER}max_iter: {iterations}")
    options = ("-n", str(workers), "--group-size", str(group_size), "--snapshot-every", "100ms", "-m")
    return Run(
        folder, "modum", "caffe", "train", "--solver=solver.prototxt", f"--update-interval={interval}", options=options
    )


def state_of(checkpoint: Path, rank: int) -> dict[str, Any]:
    """A solver's state in a checkpoint."""
    state: dict[str, Any] = torch.load(io.BytesIO(read_state(checkpoint, rank)["solver caffe"]), weights_only=True)
    return state


def logged(errors: str) -> dict[int, list[str]]:
    """What the log has of each iteration: its losses and its learning rate."""
    lines: dict[int, list[str]] = {}
    for line in errors.splitlines():
        if found := re.search(r"Iteration (\d+)(?: \(.*\))?, (loss = \S+|lr = \S+)", line):
            lines.setdefault(int(found[1]), []).append(found[2])
    return lines


def test_a_solver_goes_on_with_the_same_numbers_and_net(tmp_path: Path) -> None:
    """History, data, noise and dropout are those of the run that was killed: its last iterations are done again."""
    run = train(tmp_path, 1, iterations=1_000_000, interval=1_000_000)  # an exchange comes back at any moment
    run.wait_for(4)
    before = logged(run.kill()[1])
    for checkpoint in snapshots_in(run.folder / WORKERS):
        if state_of(checkpoint, 0)["iteration"] > max(before) - 20:  # so that some iterations come after it
            (checkpoint / RECORD).unlink()
    run = train(tmp_path, 1, iterations=1_000_000, interval=1_000_000)
    until(lambda: max(logged(run.texts()[1]), default=0) > max(before) + 1, TIMEOUT)  # the last line may be torn
    again = logged(run.kill()[1])
    both = sorted(set(before) & set(again))[:-1]
    assert min(again) == both[0] > 0
    assert len(both) > 10
    assert [again[number] for number in both] == [before[number] for number in both]

    (tmp_path / "net.prototxt").write_text(NET.replace('name: "noise" type', 'name: "other" type'))
    _, errors = train(tmp_path, 1, iterations=1_000_000, interval=1_000_000).end(status=1)
    assert "HINT: give the net files that it was made with, or name another folder" in errors


@pytest.mark.parametrize("group_size", [1, 2])
def test_each_iteration_of_all_workers_counts_once(tmp_path: Path, group_size: int) -> None:
    run = train(tmp_path, 2, group_size=group_size, iterations=800)
    run.wait_for(1)
    run.kill()
    checkpoints = snapshots_in(run.folder / WORKERS)
    for checkpoint in checkpoints:
        record = read_signed(checkpoint / RECORD, Record)
        (server,) = record.servers
        count = read_manifest(run.folder / server.folder / server.snapshot).notes.counters["caffe/iterations"]
        states = [state_of(checkpoint, rank) for rank in range(0, 2, group_size)]
        assert sum(state["averager"]["worker"]["steps"] for state in states) == count > 0
        assert max(state["iteration"] for state in states) == count - 1
    _, errors = train(tmp_path, 2, group_size=group_size, iterations=800).end()
    assert "Optimization Done." in errors
    assert (tmp_path / "snap_iter_800.solverstate").exists()
    assert count - 1 <= min(logged(errors)) < 800


def test_a_stop_of_an_earlier_run_stops_no_later_one(box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint that is taken after Ctrl-C has the stop in its count of iterations."""
    monkeypatch.chdir(tmp_path)
    box.counter("caffe/iterations").add(STOPPED + 3)
    param = read_solver("solver.prototxt", text=f"{SOLVER}max_iter: 5")
    done: list[int] = []

    def noted() -> Action:
        done.append(solver.iter)
        return Action.NONE

    with Job(box) as job, Solver(param, job=job, asked=noted) as solver:
        solver.solve()
    assert done == [3, 4]
