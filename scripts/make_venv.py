#!/usr/bin/env python3
"""Make .venv in the project's directory and install Modum there with some of its extras.

    python3 scripts/make_venv.py lint

Needs nothing but Python's standard library. Debian's python3 comes without pip unless python3-venv
is installed; pip is then taken out of Debian's own python3-pip-whl package, which needs no root and
changes nothing on the machine. Modum is installed editable: changes in src/ take effect at once.
"""

import importlib.util
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = str(VENV / "bin" / "python")


def make() -> None:
    """Make an empty .venv that has pip."""
    if importlib.util.find_spec("ensurepip") is not None:
        subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)
        return
    subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", VENV], check=True)
    unpack = runpy.run_path(str(ROOT / "src" / "modum" / "data" / "debian.py"))["unpack"]
    with tempfile.TemporaryDirectory() as scratch:
        unpack("python3-pip-whl", Path(scratch))
        (wheel,) = Path(scratch).glob("usr/share/python-wheels/pip-*.whl")
        subprocess.run([PYTHON, f"{wheel}/pip", "install", "pip"], check=True)


def has_pip() -> bool:
    """Whether .venv is there and its pip runs."""
    if not Path(PYTHON).exists():
        return False
    return subprocess.run([PYTHON, "-m", "pip", "--version"], capture_output=True).returncode == 0


def main(extras: str) -> None:
    """Install Modum with `extras` (comma-separated) into .venv, which is made if need be."""
    try:
        if not has_pip():
            make()
        constraints = str(ROOT / "scripts" / "constraints.txt")
        install = [PYTHON, "-m", "pip", "install", "--constraint", constraints]
        subprocess.run([*install, "--editable", f"{ROOT}[{extras}]"], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"error: cannot make {VENV}: {error}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: make_venv.py EXTRA[,EXTRA...]")
    main(sys.argv[1])
