"""What users install: the wheel, in an environment that has nothing else of this tree."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.docs.scripts import ROOT, blocks


@pytest.mark.timeout(300)  # builds, installs, and imports PyTorch anew
def test_the_wheel_runs_the_first_script_of_the_readme(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("modum-*.whl")
    home = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    python = home / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    # what Modum needs is here already; .pth files there, and the editable Modum with them, are not looked at
    (packages,) = (home / "lib").glob("python*/site-packages")
    (packages / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (tmp_path / "train.py").write_text(blocks(ROOT / "README.md", "python")[0][1] + "print(modum.__file__)\n")
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [python, "train.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.split()[-1]).is_relative_to(packages)
    assert (tmp_path / "model.pt").stat().st_size > 0
