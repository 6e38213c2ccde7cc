"""Keras models in stages, on every backend that is supported; a process each, which `workers/partition.py` is."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

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
    "what_a_function_has_made_besides_the_stage_is_freed_at_once",
    "equal_layers_are_measured_once",
    "wrong_input_is_refused",
]


class Checks:
    """What came of them, by name; each is waited for when it is asked for."""

    def __init__(self, lines: IO[str]) -> None:
        self._lines = lines
        self._failures: dict[str, str | None] = {}

    def failure(self, check: str) -> str | None:
        """None, or how it failed."""
        while check not in self._failures:
            name, failure = json.loads(self._lines.readline() or '["", "the process has ended"]')
            self._failures[name or check] = failure
        return self._failures[check]


@pytest.fixture(scope="module", params=["tensorflow", "torch"])
def checks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checks]:
    """Those of one backend, which run while the tests ask for them."""
    errors = tmp_path_factory.mktemp("errors") / "stderr"
    with (
        errors.open("w") as stderr,
        subprocess.Popen(
            [sys.executable, SCRIPT, tmp_path_factory.mktemp("models")],
            env={
                **os.environ,
                "KERAS_BACKEND": request.param,
                "TF_CPP_MIN_LOG_LEVEL": "3",
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": os.pathsep.join(path for path in (str(Path.cwd()), *sys.path) if path),
            },
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        try:
            yield Checks(process.stdout)
        finally:
            process.kill()
    print(errors.read_text())  # pytest shows it if a check failed


@pytest.mark.parametrize("check", CHECKS)
def test_stages(check: str, checks: Checks) -> None:
    failure = checks.failure(check)
    assert failure is None, failure
