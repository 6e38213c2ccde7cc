"""Keras models trained through a box, on every backend that is supported; the checks are in `workers/averaging.py`."""

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modum.box import Server
from tests.torch.jobs import run_job

pytestmark = pytest.mark.timeout(300)  # the first test of a backend waits for the checks of all

WORKERS = Path(__file__).parent / "workers"
CHECKS = re.findall(r"^def (\w+)\(box: Box, directory: Path\)", (WORKERS / "averaging.py").read_text(), re.MULTILINE)
BACKENDS = ["tensorflow", "torch"]


def python(backend: str, *arguments: object) -> str:
    """What a Python process prints that uses this backend of Keras."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={
            **os.environ,
            "KERAS_BACKEND": backend,
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(path for path in (str(Path.cwd()), *sys.path) if path),
        },
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@cache
def outcomes(backend: str, directory: Path) -> dict[str, str | None]:
    """Each check by name: None, or how it failed."""
    (directory / backend).mkdir()
    try:
        found: dict[str, str | None] = json.loads(python(backend, WORKERS / "averaging.py", directory / backend))
    except (AssertionError, subprocess.TimeoutExpired) as error:
        return dict.fromkeys(CHECKS, str(error))
    return found


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("averager")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("check", CHECKS)
def test_averaging(check: str, backend: str, directory: Path) -> None:
    failure = outcomes(backend, directory)[check]
    assert failure is None, failure


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_fit_that_is_asked_to_leave_ends_after_its_step(backend: str) -> None:
    python(backend, WORKERS / "leaving.py")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_saved_model_of_the_shared_weights_opens_in_plain_keras_of_any_backend(backend: str, directory: Path) -> None:
    for maker in BACKENDS:
        assert outcomes(maker, directory)["shared_weights_are_in_the_model_between_epochs"] is None
    code = f"""
import sys, keras, numpy as np
X = np.random.default_rng(0).standard_normal((96, 6)).astype("float32")
for maker in {BACKENDS}:
    directory = {str(directory)!r} + "/" + maker
    model = keras.saving.load_model(directory + "/shared.keras")
    np.testing.assert_allclose(model.predict(X, verbose=0), np.load(directory + "/prediction.npy"), atol=1e-5)
assert not any(name.startswith("modum") for name in sys.modules)
"""
    python(backend, "-c", code)


def test_joining_takes_no_more_of_the_processor_than_building_the_model() -> None:
    with Server(memory=1 << 26) as server:
        building, joining = map(float, python("tensorflow", WORKERS / "joining.py", server.address).split())
    assert joining < 1.2 * building  # 3 to 7 times while the model's variables were traced three times


@pytest.mark.parametrize(("backend", "other"), [("tensorflow", "torch"), ("torch", "tensorflow")])
def test_only_the_backend_in_use_is_imported(backend: str, other: str) -> None:
    code = f"""
import sys
import modum.keras
assert "keras" not in sys.modules
import keras, modum, numpy as np
with modum.connect() as job, modum.keras.Averager(job) as averager:
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x, y = np.ones((8, 2), "float32"), np.ones((8, 1), "float32")
    model.fit(averager.share(x, y, batch_size=4), verbose=0, shuffle=False, callbacks=[averager])
    assert averager.statistics().steps == 2
assert {other!r} not in sys.modules and {backend!r} in sys.modules
"""
    python(backend, "-c", code)


STEPS, SIZE, RATE = 6, 8, 0.25


def reference(first: np.ndarray, samples: list[np.ndarray]) -> np.ndarray:
    """The kernel and bias of one group that trains on whole batches and exchanges every second step."""
    X = np.random.default_rng(3).standard_normal((STEPS * SIZE, 5)).astype("float32")
    Y = X @ np.arange(5, dtype="float32")[:, None]
    W, G = first.copy(), first.copy()
    for step, batch in enumerate(samples):
        x = np.concatenate([X[batch], np.ones((len(batch), 1), np.float32)], axis=1)
        W -= 0.1 * 2 * x.T @ (x @ W - Y[batch]) / len(batch)
        if step % 2:
            d = RATE * (W - G)
            W, G = W - d, G + d
    G += RATE * (W - G)  # the last exchange
    return G


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_group_trains_as_one_worker_with_the_whole_batches(backend: str, tmp_path: Path) -> None:
    options: Any = {"variables": {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}, "seconds": 280}
    with Server(memory=1 << 24) as server:
        outputs = run_job(WORKERS / "group.py", tmp_path, servers=server.address, workers=2, group_size=2, **options)
    weights = [list(np.load(tmp_path / f"{rank}.npz").values()) for rank in range(2)]
    for first, second in zip(*weights, strict=True):
        np.testing.assert_array_equal(first, second)
    said = [json.loads(output.splitlines()[-1]) for output in outputs]
    assert [each["epochs"] for each in said] == [4, 4]
    start = np.concatenate([weight.reshape(-1, 1) for weight in np.load(tmp_path / "start.npz").values()])
    order = np.random.default_rng([1, 0]).permutation(STEPS * SIZE)
    expected = reference(start, np.split(order, STEPS))
    found = np.concatenate([weight.reshape(-1, 1) for weight in weights[0][:2]])
    np.testing.assert_allclose(found, expected, atol=1e-5)
