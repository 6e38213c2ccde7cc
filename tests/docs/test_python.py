"""Every block of Python in the README and in docs/ runs as it stands."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.docs.prepare import prepare
from tests.docs.scripts import DOCUMENTS, Script, scripts

SCRIPTS = [script for document in DOCUMENTS for script in scripts(document)]


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_a_script_of_the_docs_runs(script: Script, tmp_path: Path) -> None:
    prepare(script.document, tmp_path)
    file = tmp_path / "train.py"
    file.write_text(script.text)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "MPLBACKEND": "agg"}
    done = subprocess.run(
        [sys.executable, file.name],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, f"{script.document}:\n{done.stdout}{done.stderr}"
