"""Solvers: what happens at which iteration, snapshots, and the log."""

import logging
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from modum.caffe import CaffeError, ModelError, Solver, read_solver
from modum.caffe.errors import MissingFileError
from modum.caffe.snapshot import check_prefix
from modum.caffe.solver import Action
from tests.caffe.nets import CLASSIFIER, solver

SGD = "base_lr: 0.1 momentum: 0.9 weight_decay: 0.01"


def weights(trained: Solver) -> torch.Tensor:
    return trained.parameters.flat.clone()


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("modum.caffe")]


@pytest.fixture(autouse=True)
def _logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "modum.caffe")


def test_a_step_is_that_of_pytorchs_optimizer() -> None:
    with Solver(solver(SGD)) as trained:
        copies = [torch.nn.Parameter(one.tensor.detach().clone()) for one in trained.net.learnables]
        groups = [
            {"params": [copy], "lr": 0.1 * one.lr_mult, "weight_decay": 0.01 * one.decay_mult}
            for copy, one in zip(copies, trained.net.learnables, strict=True)
        ]
        optimizer = torch.optim.SGD(groups, momentum=0.9)
        for _ in range(3):
            trained.parameters.gradient.zero_()
            trained.net.forward_backward()
            for copy, one in zip(copies, trained.net.learnables, strict=True):
                assert one.tensor.grad is not None
                copy.grad = one.tensor.grad.clone()
            optimizer.step()
            trained.step(1)
            for copy, one in zip(copies, trained.net.learnables, strict=True):
                torch.testing.assert_close(one.tensor.detach(), copy.detach(), rtol=1e-5, atol=1e-6)
        assert trained.iter == 3


@pytest.mark.parametrize("kind", ["SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam"])
@pytest.mark.parametrize("form", ["BINARYPROTO", "HDF5"])
def test_a_run_goes_on_from_a_snapshot_as_if_it_had_never_stopped(kind: str, form: str, tmp_path: Path) -> None:
    momentum = 0 if kind in ("AdaGrad", "RMSProp") else 0.9
    param = solver(
        f'type: "{kind}" base_lr: 0.05 momentum: {momentum} max_iter: 6 snapshot: 3 snapshot_format: {form}',
        directory=tmp_path,
    )
    end = ".h5" if form == "HDF5" else ""
    with Solver(param) as through:
        through.solve()
        expected = weights(through)
    assert {path.name for path in tmp_path.iterdir()} == {
        f"snap_iter_{number}.{kind}{end}" for number in (3, 6) for kind in ("caffemodel", "solverstate")
    }
    with Solver(param) as resumed:
        resumed.solve(tmp_path / f"snap_iter_3.solverstate{end}")
        assert resumed.iter == 6
        assert torch.equal(weights(resumed), expected)


def test_a_snapshot_of_another_solver_is_refused(tmp_path: Path) -> None:
    with Solver(solver(SGD, directory=tmp_path)) as trained:
        _, state = trained.snapshot()
    with Solver(solver('type: "Adam" momentum: 0.9')) as other:
        with pytest.raises(CaffeError, match="has 4 blobs of history, but this solver needs 8"):
            other.restore(state)


def test_snapshots_that_were_moved_find_their_weights(tmp_path: Path) -> None:
    with Solver(solver(SGD, directory=tmp_path)) as trained:
        trained.step(2)
        for path in trained.snapshot():
            (tmp_path / "moved").mkdir(exist_ok=True)
            path.rename(tmp_path / "moved" / path.name)
        expected = weights(trained)
    with Solver(solver(SGD)) as other:
        other.restore(tmp_path / "moved" / "snap_iter_2.solverstate")
        assert torch.equal(weights(other), expected)


@pytest.mark.parametrize("form", ["BINARYPROTO", "HDF5"])
def test_a_snapshot_can_have_the_last_update_too(form: str, tmp_path: Path) -> None:
    from modum.caffe.arrays import parse_file
    from modum.caffe.proto import NetParameter

    with Solver(solver(f"{SGD} snapshot_diff: true snapshot_format: {form}", directory=tmp_path)) as trained:
        trained.step(1)
        model, _ = trained.snapshot()
        diff = trained.net.params["ip"][1].diff
        if form == "HDF5":
            import h5py

            with h5py.File(model) as file:
                np.testing.assert_array_equal(file["diff/ip/1"], diff)
        else:
            layers = {layer.name: layer for layer in parse_file(NetParameter(), model).layer}
            np.testing.assert_array_equal(np.float32(layers["ip"].blobs[1].diff), diff)


def test_a_directory_for_snapshots_that_is_not_there_is_told_before_training(tmp_path: Path) -> None:
    with pytest.raises(CaffeError, match=r"cannot write snapshots: .*No such file or directory\nHINT: mkdir -p"):
        Solver(solver("snapshot: 5", directory=tmp_path / "missing"))


def test_gradients_of_several_batches_are_averaged() -> None:
    with Solver(solver(SGD)) as one, Solver(solver(f"{SGD} iter_size: 4")) as four:
        one.step(2)
        four.step(2)
        torch.testing.assert_close(weights(four), weights(one), rtol=1e-5, atol=1e-7)


def test_large_gradients_are_scaled_down_together(caplog: pytest.LogCaptureFixture) -> None:
    with Solver(solver("base_lr: 1 clip_gradients: 0.01")) as trained:
        before = weights(trained)
        trained.step(1)
        assert float((trained.parameters.gradient[64:]).norm()) <= 0.01
        assert float((weights(trained) - before).norm()) <= 0.0201  # the bias learns twice as fast
    assert any(line.startswith("Gradient clipping: scaling down gradients (L2 norm") for line in lines(caplog))


def test_the_log_is_what_caffes_parsers_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    param = solver(f"{SGD} max_iter: 4 display: 2 test_iter: 2 test_interval: 4 average_loss: 2", directory=tmp_path)
    with Solver(param) as trained:
        trained.solve()
    number = r"[-+.\de]+"
    patterns = [
        "Solving small",
        "Learning Rate Policy: fixed",
        r"Iteration 0, Testing net \(#0\)",
        f"    Test net output #0: accuracy = {number}",
        rf"    Test net output #1: loss = {number} \(\* 1 = {number} loss\)",
        rf"Iteration 0 \({number} iter/s, {number}s/2 iters\), loss = {number}",
        rf"    Train net output #0: loss = {number} \(\* 1 = {number} loss\)",
        "Iteration 0, lr = 0.1",
        rf"Iteration 2 \({number} iter/s, {number}s/2 iters\), loss = {number}",
        rf"    Train net output #0: loss = {number} \(\* 1 = {number} loss\)",
        "Iteration 2, lr = 0.1",
        r"Snapshotting to binary proto file \S+snap_iter_4.caffemodel",
        r"Snapshotting solver state to binary proto file \S+snap_iter_4.solverstate",
        f"Iteration 4, loss = {number}",
        r"Iteration 4, Testing net \(#0\)",
        f"    Test net output #0: accuracy = {number}",
        rf"    Test net output #1: loss = {number} \(\* 1 = {number} loss\)",
        "Optimization Done.",
    ]
    found = lines(caplog)
    assert len(found) == len(patterns), "\n".join(found)
    for line, pattern in zip(found, patterns, strict=True):
        assert re.fullmatch(pattern, line), (pattern, line)


def test_a_test_tells_the_mean_over_its_batches_with_the_weights_of_now() -> None:
    with Solver(solver(f"{SGD} test_iter: 3 test_interval: 10 test_compute_loss: true")) as trained:
        first = trained.test()
        trained.step(20)
        assert first.keys() == {"accuracy", "loss"}
        assert trained.test()["loss"] < first["loss"]
        tested = trained.test_nets[0].forward()
        assert trained.test()["loss"] == pytest.approx(float(tested["loss"]))


def test_no_test_at_the_start_if_the_solver_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with Solver(solver(f"{SGD} test_iter: 1 test_interval: 2 test_initialization: false")) as trained:
        trained.step(3)
    assert [line for line in lines(caplog) if "Testing" in line] == ["Iteration 2, Testing net (#0)"]


def test_debug_information_is_told_where_it_is_displayed(caplog: pytest.LogCaptureFixture) -> None:
    with Solver(solver(f"{SGD} display: 2 debug_info: true")) as trained:
        trained.step(2)
    found = lines(caplog)
    starts = [
        "    [Forward] Layer data, top blob data data: 0.5",
        "    [Forward] Layer conv, top blob conv data: ",
        "    [Forward] Layer conv, param blob 1 data: 0",
        "    [Backward] Layer loss, bottom blob ip diff: ",
        "    [Backward] Layer conv, param blob 0 diff: ",
        "    [Backward] All net params (data, diff): L1 norm = (",
        "    [Update] Layer conv, param 0 data: ",
    ]
    for start in starts:
        assert sum(line.startswith(start) for line in found) == 1, start


@pytest.mark.parametrize("action", [Action.STOP, Action.SNAPSHOT])
def test_somebody_can_ask_for_a_snapshot_or_the_end(action: Action, tmp_path: Path) -> None:
    asked = iter([Action.NONE, action])
    param = solver(f"{SGD} max_iter: 9", directory=tmp_path)
    with Solver(param, asked=lambda: next(asked, Action.NONE)) as trained:
        trained.solve()
        assert trained.iter == (2 if action is Action.STOP else 9)
    assert (tmp_path / "snap_iter_2.caffemodel").exists()
    assert (tmp_path / "snap_iter_9.caffemodel").exists() == (action is Action.SNAPSHOT)


def test_several_nets_are_tested_each_in_its_state(caplog: pytest.LogCaptureFixture) -> None:
    model = CLASSIFIER.replace("include { phase: TEST }", 'include { phase: TEST stage: "scored" }')
    text = 'test_iter: 1 test_iter: 1 test_interval: 5 test_state {} test_state { stage: "scored" }'
    with Solver(solver(f"{SGD} {text}", model)) as trained:
        trained.step(1)
        assert [one.outputs for one in trained.test_nets] == [["loss"], ["accuracy", "loss"]]
    assert [line for line in lines(caplog) if "Testing" in line] == [
        "Iteration 0, Testing net (#0)",
        "Iteration 0, Testing net (#1)",
    ]


def test_nets_may_lie_in_files_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.prototxt").write_text(CLASSIFIER)
    text = 'lr_policy: "fixed" train_net: "net.prototxt" test_net: "net.prototxt" test_iter: 1 test_interval: 1'
    (tmp_path / "solver.prototxt").write_text(text + " base_lr: 0.1 max_iter: 1 snapshot_after_train: false")
    with Solver("solver.prototxt") as trained:
        trained.solve()
        assert trained.test_nets[0].outputs == ["accuracy", "loss"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ('net: "a.prototxt"', "exactly one of net, .* gives the train net, but there is net and net_param"),
        ("test_iter: 1", "test_iter needs a test_interval"),
        ("test_iter: 0 test_interval: 1", r"test_iter \(0\) must be at least 1"),
        ("test_iter: 1 test_interval: 1 test_state {} test_state {}", "2 test_state for 1 test nets"),
        ("iter_size: 0", r"iter_size \(0\) must be at least 1"),
        ("max_iter: -1", r"max_iter \(-1\) must be at least 0"),
    ],
)
def test_a_wrong_solver_is_refused_with_its_line(fields: str, message: str) -> None:
    with pytest.raises(ModelError, match=f"solver.prototxt:1: {message}"):
        Solver(solver(fields))


@pytest.mark.parametrize("field", ["net", "test_net"])
def test_a_net_that_is_not_there_is_told_with_the_line_that_names_it(field: str) -> None:
    own = (
        f"net_param {{ {CLASSIFIER} }} test_iter: 1 test_interval: 1".replace("\n", " ") if field == "test_net" else ""
    )
    param = read_solver("solver.prototxt", text=f'lr_policy: "fixed" {own}\n{field}: "nets/none.prototxt"')
    message = (
        f"^solver.prototxt:2: {field}: nets/none.prototxt: cannot be read: No such file or directory\nHINT: paths "
    )
    with pytest.raises(MissingFileError, match=message):
        Solver(param)


def test_a_solver_without_a_net_is_refused() -> None:
    with pytest.raises(ModelError, match="gives the train net, but there is none"):
        Solver(read_solver("solver.prototxt", text='lr_policy: "fixed"'))


def test_workers_that_try_at_one_moment_whether_they_can_write_snapshots_do_not_disturb_each_other(
    tmp_path: Path,
) -> None:
    with ThreadPoolExecutor(4) as workers:
        assert list(workers.map(lambda _: check_prefix(str(tmp_path / "net")), range(400))) == [None] * 400
    assert list(tmp_path.iterdir()) == []
