"""`modum caffe`: Caffe's commands, alone and by several workers."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from tests.caffe.nets import CLASSIFIER

from modum.caffe import Solver, read_solver
from modum.caffe.weights import read_state, read_weights

MODUM = [sys.executable, "-W", "error", "-m", "modum"]
CAFFE = [*MODUM, "caffe"]
SOLVER = """net: "net.prototxt" base_lr: 0.05 lr_policy: "fixed" momentum: 0.9 max_iter: 40 display: 10
test_iter: 2 test_interval: 20 snapshot_prefix: "snap" random_seed: 3
"""

Result = subprocess.CompletedProcess[str]


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.prototxt").write_text(CLASSIFIER)
    Path("solver.prototxt").write_text(SOLVER)


def caffe(*arguments: str) -> Result:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*CAFFE, *arguments], capture_output=True, text=True, timeout=100, env=environment)


def snapshot_at(iteration: int) -> tuple[Path, Path]:
    """The files of weights and state after so many iterations by one worker."""
    text = SOLVER.replace('"snap"', '"first"')
    with Solver(read_solver("solver.prototxt", text=text)) as solver:
        solver.step(iteration)
        return solver.snapshot()


def parsed(log: str) -> dict[int, dict[str, float]]:
    """The test outputs by iteration, found as Caffe's parse_log.py finds them: by these patterns, in lines of glog."""
    start = next(line for line in log.splitlines() if "Solving" in line)
    assert re.match(r"I\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ \S+\] Solving", start)
    iteration = -1
    tested: dict[int, dict[str, float]] = {}
    for line in log.splitlines():
        if number := re.search(r"Iteration (\d+)", line):
            iteration = int(number[1])
        if output := re.search(r"Test net output #(\d+): (\S+) = ([\.\deE+-]+)", line):
            tested.setdefault(iteration, {})[output[2]] = float(output[3])
    return tested


def messages(done: Result) -> list[str]:
    return [line.partition("] ")[2] for line in done.stderr.splitlines() if "] " in line]


@pytest.mark.parametrize("spelling", [("--solver=solver.prototxt",), ("-solver", "solver.prototxt")])
def test_train_takes_both_spellings_of_its_options(spelling: tuple[str, ...]) -> None:
    done = caffe("train", *spelling, "-sigint_effect", "none", "--sighup-effect=stop")
    assert done.returncode == 0, done.stderr
    found = messages(done)
    assert found[0] == "Solving small"
    assert found[-1] == "Optimization Done."
    assert [line for line in found if "Testing" in line] == [
        f"Iteration {number}, Testing net (#0)" for number in (0, 20, 40)
    ]
    assert Path("snap_iter_40.caffemodel").exists()


def test_a_run_goes_on_from_its_snapshot_and_is_scored() -> None:
    assert caffe("train", "--solver=solver.prototxt").returncode == 0
    Path("solver.prototxt").write_text(SOLVER.replace("max_iter: 40", "max_iter: 50"))
    done = caffe("train", "--solver=solver.prototxt", "--snapshot=snap_iter_40.solverstate")
    assert done.returncode == 0, done.stderr
    assert Path("snap_iter_50.caffemodel").exists()
    assert not any(line.startswith("Iteration 30") for line in messages(done))
    scored = caffe("test", "-model", "net.prototxt", "-weights", "snap_iter_50.caffemodel", "-iterations", "3")
    assert scored.returncode == 0, scored.stderr
    found = messages(scored)
    assert found[0] == "Running for 3 iterations."
    assert found[1] == "Batch 0, accuracy = 1"
    assert re.fullmatch(r"loss = \S+ \(\* 1 = \S+ loss\)", found[-1])


def test_weights_of_another_run_are_a_start() -> None:
    assert caffe("train", "--solver=solver.prototxt").returncode == 0
    Path("again.prototxt").write_text(SOLVER.replace("max_iter: 40", "max_iter: 0").replace('"snap"', '"same"'))
    done = caffe("train", "--solver=again.prototxt", "--weights=snap_iter_40.caffemodel")
    assert done.returncode == 0, done.stderr
    trained, same = (read_weights(f"{name}.caffemodel") for name in ("snap_iter_40", "same_iter_0"))
    for layer, arrays in trained.items():
        for one, other in zip(arrays, same[layer], strict=True):
            np.testing.assert_array_equal(one, other)


def test_time_tells_of_every_layer() -> None:
    done = caffe("time", "--model=net.prototxt", "--iterations=2")
    assert done.returncode == 0, done.stderr
    found = messages(done)
    for layer in ("data", "conv", "relu", "ip", "loss"):
        for way in ("forward", "backward"):
            assert sum(bool(re.fullmatch(rf" *{layer}\t{way}: \S+ ms\.", line)) for line in found) == 1
    assert found[-1] == "*** Benchmark ends ***"


def test_four_workers_train_one_model_and_count_their_iterations_together() -> None:
    data = CLASSIFIER[: CLASSIFIER.index('layer { name: "conv"')]
    scored = data.replace('name: "small"', "").replace("dim: 6", "dim: 1")  # which no group could share out
    phases = (
        text.replace('top: "label"', f'top: "label" include {{ phase: {phase} }}')
        for text, phase in ((data, "TRAIN"), (scored, "TEST"))
    )
    Path("net.prototxt").write_text("".join(phases) + CLASSIFIER.removeprefix(data))
    done = caffe("train", "-solver", "solver.prototxt", "-n", "4", "--group_size", "2", "--update-interval=2")
    assert done.returncode == 0, done.stderr
    found = messages(done)  # as they are, for those who read logs of Caffe
    assert found.count("Optimization Done.") == 1  # the first worker's log alone
    assert parsed(done.stderr)[40] == {"accuracy": 1.0, "loss": pytest.approx(0, abs=0.5)}
    assert "240/240 samples" in done.stderr
    assert [path.name for path in sorted(Path().glob("snap*"))] == [
        "snap_iter_40.caffemodel",
        "snap_iter_40.solverstate",
    ]


def test_modum_run_starts_the_same_job() -> None:
    command = [
        sys.executable,
        "-m",
        "modum",
        "run",
        "-n",
        "2",
        "-m",
        "modum",
        "caffe",
        "train",
        "--solver=solver.prototxt",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "240/240 samples" in done.stderr
    assert Path("snap_iter_40.caffemodel").exists()


@contextmanager
def training(*command: str) -> Iterator[tuple[subprocess.Popen[str], Iterator[str]]]:
    """A run without an end that displays later iterations than its first, and the lines that it will write."""
    Path("solver.prototxt").write_text(SOLVER.replace("max_iter: 40", "max_iter: 100000000"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as trainer:
        guard = threading.Timer(100, trainer.kill)
        guard.start()
        try:
            assert trainer.stderr is not None
            lines = iter(trainer.stderr)
            next(line for line in lines if "iter/s" in line and "Iteration 0 " not in line)
            yield trainer, lines
        finally:
            guard.cancel()
            guard.join()
            trainer.kill()


@pytest.mark.parametrize(("number", "effect"), [(signal.SIGINT, "stop"), (signal.SIGHUP, "snapshot")])
def test_a_signal_has_its_effect(number: signal.Signals, effect: str) -> None:
    with training(*CAFFE, "train", "--solver=solver.prototxt") as (trainer, lines):
        trainer.send_signal(number)
        next(line for line in lines if "Snapshotting solver state" in line)
        if effect == "snapshot":
            next(line for line in lines if "iter/s" in line)  # it goes on
            trainer.send_signal(signal.SIGINT)
        rest = list(lines)
        assert trainer.wait(100) == 0
    assert rest[-1].rstrip().endswith("Optimization stopped early.")


def test_a_signal_can_be_without_effect_and_one_can_come_again() -> None:
    effects = ("--sigint-effect=snapshot", "--sighup-effect=none")
    with training(*CAFFE, "train", "--solver=solver.prototxt", *effects) as (trainer, lines):
        for _ in range(2):
            trainer.send_signal(signal.SIGHUP)
            trainer.send_signal(signal.SIGINT)
            next(line for line in lines if "Snapshotting solver state" in line)
            next(line for line in lines if "iter/s" in line)  # it goes on


@pytest.mark.parametrize("launcher", ["caffe train", "run"])
def test_signals_have_their_effects_in_a_job_of_many(launcher: str) -> None:
    train: tuple[str, ...] = ("--solver=solver.prototxt", "--update-interval=2")
    if launcher == "run":
        train = (*train, f"--snapshot={snapshot_at(5)[1]}")
        command = (*MODUM, "run", "-n", "2", "-m", "modum", "caffe", "train", *train)
    else:
        command = (*CAFFE, "train", *train, "-n", "4", "--group-size", "2")
    with training(*command) as (trainer, lines):
        trainer.send_signal(signal.SIGHUP)
        next(line for line in lines if "Snapshotting solver state" in line)
        next(line for line in lines if "iter/s" in line)  # they go on
        trainer.send_signal(signal.SIGINT)
        rest = [line.rstrip() for line in lines]
        assert trainer.wait(100) == 0
    workers = 2 if launcher == "run" else 4
    assert rest[-1].endswith(f"{workers}/{workers} workers done")
    stopped = next(number for number, line in enumerate(rest) if line.endswith("Optimization stopped early."))
    states = sorted(Path().glob("snap*.solverstate"), key=lambda path: read_state(path).iteration)
    assert len(states) == 2
    assert str(states[-1]) in rest[stopped - 1]
    last = read_state(states[-1])
    assert last.learned_net == f"snap_iter_{last.iteration}.caffemodel"
    assert all(np.isfinite(array).all() for array in (*last.history, *read_weights(last.learned_net)["ip"]))


def test_a_request_to_leave_alone_ends_with_a_snapshot() -> None:
    with training(*CAFFE, "train", "--solver=solver.prototxt") as (trainer, lines):
        trainer.send_signal(signal.SIGTERM)
        next(line for line in lines if "Snapshotting solver state" in line)
        assert list(lines)[-1].rstrip().endswith("Optimization stopped early.")
        assert trainer.wait(100) == 0


def test_the_workers_of_a_job_that_is_asked_to_leave_do_so_and_the_first_one_writes_a_snapshot() -> None:
    options = ("--update-interval=2", "-n", "2", "--grace=45s")
    with training(*CAFFE, "train", "--solver=solver.prototxt", *options) as (trainer, lines):
        trainer.send_signal(signal.SIGTERM)
        rest = [line.rstrip() for line in lines]
        assert trainer.wait(100) == 143
    assert any("the workers have 45 s to leave (--grace)" in line for line in rest)
    assert rest[-1].endswith("stopped by SIGTERM; 2/2 workers left in order")
    assert any(line.endswith("Optimization stopped early.") for line in rest)
    (path,) = Path().glob("snap*.solverstate")
    state = read_state(path)
    assert path.name == f"snap_iter_{state.iteration}.solverstate"
    assert all(np.isfinite(array).all() for array in (*state.history, *read_weights(state.learned_net)["ip"]))


def test_a_job_ends_where_weights_are_not_finite_if_that_was_chosen() -> None:
    Path("solver.prototxt").write_text(re.sub(r"base_lr: \S+", "base_lr: 1e38", SOLVER))
    done = caffe("train", "--solver=solver.prototxt", "-n", "2", "--update-interval=1", "--on-nonfinite=raise")
    assert done.returncode != 0
    assert "they were kept out of the shared weights" in done.stderr


def test_a_job_takes_over_the_weights_and_the_history_of_a_snapshot() -> None:
    model, state = snapshot_at(40)
    Path("solver.prototxt").write_text(SOLVER.replace('"snap"', '"same" snapshot: 20'))
    # all iterations are done: what was read is what the workers have, and write
    done = caffe("train", "--solver=solver.prototxt", f"--snapshot={state}", "-n", "2")
    assert done.returncode == 0, done.stderr
    history, again = read_state(state).history, read_state("same_iter_40.solverstate").history
    for one, other in zip(history, again, strict=True):
        np.testing.assert_array_equal(one, other)
    weights, same = read_weights(model), read_weights("same_iter_40.caffemodel")
    for layer, arrays in weights.items():
        for one, other in zip(arrays, same[layer], strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("train",), 2, "need a solver definition to train"),
        (("train", "--solver=missing.prototxt"), 1, "error: missing.prototxt: cannot be read"),
        (("train", "--solver=solver.prototxt", "--gpu=99"), 1, "error: --gpu 99: there is no GPU 99 here"),
        (("train", "--solver=solver.prototxt", "--gpu=x"), 1, "error: --gpu x: give numbers"),
        (("train", "--solver=solver.prototxt", "-n", "3", "--group-size=2"), 2, "must divide the number of workers"),
        (("test", "--model=net.prototxt"), 2, "need weights to score"),
        (("time",), 2, "need a model definition to time"),
    ],
)
def test_a_mistake_is_told_before_anything_runs(arguments: tuple[str, ...], status: int, message: str) -> None:
    done = caffe(*arguments)
    assert done.returncode == status
    assert message in re.sub(r"[\s│]+", " ", done.stderr)
    assert "Traceback" not in done.stderr


def test_a_wrong_net_ends_as_one_line_with_file_line_and_layer() -> None:
    Path("net.prototxt").write_text(CLASSIFIER.replace('bottom: "conv" top: "ip"', 'bottom: "cnov" top: "ip"'))
    done = caffe("train", "--solver=solver.prototxt")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: net.prototxt:10: layer \"ip\": no layer before this one makes its bottom 'cnov'; is 'conv' meant?"
    ]
