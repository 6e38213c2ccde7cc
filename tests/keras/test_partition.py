"""Keras models in stages, on every backend that is supported; a process each, which `workers/partition.py` is."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "workers" / "partition.py"
CHECKS = [
    "synchronous_stages_equal_the_unsplit_model_for_20_steps",
    "micro_batches_add_up_to_their_batch",
    "asynchronous_stages_follow_the_published_equation",
    "recurrent_layers_and_masks_work_in_stages",
    "several_inputs_and_outputs_cross_the_cuts",
    "a_saved_model_opens_in_plain_keras",
    "two_pipelines_share_their_stages",
    "a_worker_holds_its_own_variables_only",
    "layers_are_shared_out_by_the_time_they_take_and_the_model_stays",
    "wrong_input_is_refused",
]


@cache
def outcomes(backend: str, directory: Path) -> dict[str, str | None]:
    """Each check by name: None, or how it failed."""
    done = subprocess.run(
        [sys.executable, SCRIPT, directory],
        env={
            **os.environ,
            "KERAS_BACKEND": backend,
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(path for path in (str(Path.cwd()), *sys.path) if path),
        },
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str | None] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
@pytest.mark.parametrize("check", CHECKS)
def test_stages(check: str, backend: str, directory: Path) -> None:
    failure = outcomes(backend, directory)[check]
    assert failure is None, failure
