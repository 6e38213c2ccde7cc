"""Every block of Python in the README and in docs/ runs as it stands."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from tests.docs.prepare import prepare
from tests.docs.scripts import DOCUMENTS, Script, scripts

LAUNCHERS = {"from-ddp": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]}
"""Documents whose scripts are started by something else than Python alone."""
NOT_OURS = "\nimport os\nos._exit(0)\n"
"""Ends a script that does not use Modum. DistributedDataParallel keeps gloo's threads after `destroy_process_group`,
and the interpreter's end then aborts now and then (pytorch/pytorch#190489): in 1 of 40 runs of two workers."""
SCRIPTS = [script for document in DOCUMENTS for script in scripts(document)]


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_a_script_of_the_docs_runs(script: Script, tmp_path: Path) -> None:
    prepare(script.document, tmp_path)
    file = tmp_path / "train.py"
    file.write_text(script.text if "modum" in script.text else script.text + NOT_OURS)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "MPLBACKEND": "agg"}
    command = [sys.executable, *LAUNCHERS.get(script.document.stem, ()), file.name]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=100)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what it started, too
    assert process.returncode == 0, f"{script.document}:\n{output}"
