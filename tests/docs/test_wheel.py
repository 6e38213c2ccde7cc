"""What users install: the wheel, in an environment that has nothing else of this tree."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from tests.docs.scripts import ROOT, blocks

pytestmark = pytest.mark.timeout(400)  # builds, installs, and imports PyTorch anew
PYTHON_VARIABLES = ("PYTHONPATH", "VIRTUAL_ENV")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (built,) = folder.glob("modum-*.whl")
    return built


def packages_of_a_new_environment(folder: Path) -> Path:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = (folder / "lib").glob("python*/site-packages")
    return packages


def pip_install(environment: Path, *what: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python"), "install", *what]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def run_the_first_script_of_the_readme(environment: Path, packages: Path, folder: Path) -> None:
    (folder / "train.py").write_text(blocks(ROOT / "README.md", "python")[0][1] + "print(modum.__file__)\n")
    variables = {name: value for name, value in os.environ.items() if name not in PYTHON_VARIABLES}
    done = subprocess.run(
        [environment / "bin" / "python", "train.py"],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.split()[-1]).is_relative_to(packages)
    assert (folder / "model.pt").stat().st_size > 0


def test_the_wheel_runs_the_first_script_of_the_readme(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    packages = packages_of_a_new_environment(environment)
    assert pip_install(environment, "--no-deps", "--no-index", str(wheel)).returncode == 0
    # what Modum needs is here already; .pth files there, and the editable Modum with them, are not looked at
    (packages / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run_the_first_script_of_the_readme(environment, packages, tmp_path)


def test_the_extra_torch_is_all_that_the_first_script_of_the_readme_needs(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    packages = packages_of_a_new_environment(environment)
    constraints = str(ROOT / "scripts" / "constraints.txt")
    installed = pip_install(environment, "--constraint", constraints, f"{wheel}[torch]")
    if installed.returncode:
        # nothing says that a machine that tests can reach an index; the test above has the wheel itself
        pytest.skip(f"pip cannot get what the wheel needs: {installed.stderr.strip().splitlines()[-1]}")
    run_the_first_script_of_the_readme(environment, packages, tmp_path)
