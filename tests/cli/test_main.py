"""The command as a whole: quick, helpful, and without tracebacks for what goes wrong on purpose."""

import json
import re
import subprocess
import sys
from pathlib import Path

MODUM = str(Path(sys.executable).with_name("modum"))
COMMANDS = ["server", "run", "join", "status", "plan", "simulate", "caffe", "data", "doctor", "token"]


def modum(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([MODUM, *arguments], capture_output=True, text=True, timeout=60)


def test_help_lists_every_command_and_is_what_modum_alone_shows() -> None:
    done = modum("--help")
    assert done.returncode == 0
    assert re.findall(r"^│ ([a-z]+) ", done.stdout, re.MULTILINE) == COMMANDS
    assert modum().stdout.strip() == done.stdout.strip()


def test_every_command_explains_itself() -> None:
    for command in COMMANDS:
        done = modum(command, "--help")
        assert done.returncode == 0
        assert f"Usage: modum {command}" in done.stdout


def test_help_imports_nothing_heavy() -> None:
    script = """
import json, sys
from modum.cli.main import app
app(["--help"], standalone_mode=False)
print(json.dumps(sorted(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    modules = set(json.loads(done.stdout.splitlines()[-1]))
    assert "typer" in modules
    assert modules.isdisjoint({"torch", "tensorflow", "numba", "llvmlite", "numpy", "mpi4py", "matplotlib"})


def test_version_is_that_of_the_package() -> None:
    done = modum("--version")
    assert (done.returncode, done.stdout) == (0, "modum 0.1.0\n")


def test_what_modum_raises_on_purpose_ends_as_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = modum("data", "fashion-mnist", "--into", str(tmp_path / "file" / "here"))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        f"error: cannot keep Fashion-MNIST in {tmp_path}/file/here: "
        f"[Errno 20] Not a directory: '{tmp_path}/file/here'\n"
    )


def test_a_command_that_does_not_exist_is_a_usage_error() -> None:
    done = modum("trian")
    assert done.returncode == 2
    assert "No such command 'trian'" in done.stderr
