"""Unpack files from Debian packages, without installing them and without root.

Standard library only, and nothing from the rest of Modum: `scripts/make_venv.py` runs this file
before anything else is installed.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path


def unpack(packages: str | Sequence[str], into: Path) -> None:
    """Download Debian packages and unpack their files, without installing anything.

    Uses the machine's package lists, or where it has none (fresh containers) fetches lists into a
    scratch directory. Nothing is written outside `into`.

    Args:
        packages: name of a package, or several.
        into: directory in which to put the files; created if missing.

    Raises:
        OSError: there is no apt, no network, or no such package; the message says which.
    """
    names = [packages] if isinstance(packages, str) else packages
    for command in ("apt-get", "dpkg-deb"):
        if shutil.which(command) is None:
            raise FileNotFoundError(f"{command} is not on this machine")
    with tempfile.TemporaryDirectory(prefix="modum-apt-") as scratch:
        private = ["-o", f"Dir::State::Lists={scratch}/lists", "-o", f"Dir::Cache={scratch}/cache"]
        try:
            _run(["apt-get", *_APT_OPTIONS, "download", *names], scratch)
        except OSError:
            for part in ("lists/partial", "cache/archives/partial"):
                (Path(scratch) / part).mkdir(parents=True)
            _run(["apt-get", *_APT_OPTIONS, *private, "update"], scratch)
            _run(["apt-get", *_APT_OPTIONS, *private, "download", *names], scratch)
        into.mkdir(parents=True, exist_ok=True)
        for archive in Path(scratch).glob("*.deb"):
            _run(["dpkg-deb", "--extract", str(archive), str(into.resolve())], scratch)


# As root apt would drop to the user _apt, who may not write into the scratch directory.
_APT_OPTIONS = ("-q", "-o", "APT::Sandbox::User=root", "-o", "Debug::NoLocking=1", "-o", "Acquire::Retries=1")


def _run(command: Sequence[str], directory: str) -> None:
    done = subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != 0:
        said = done.stdout.strip().splitlines() or ["no output"]
        raise OSError(f"{' '.join(command)} failed with status {done.returncode}: {said[-1]}")
