"""A server's folder of snapshots: each is a folder that comes into place whole, and `latest` names the newest.

    snapshot-00000041/  manifest.json, 1.safetensors, ...
    snapshot-00000042/
    latest -> snapshot-00000042
    lock                held by the server that writes here

What is being written or removed has another name, so that whatever is called snapshot-... was once whole on the disk.
"""

import fcntl
import os
import re
import shutil
from pathlib import Path
from typing import Final

from modum.errors import SnapshotError

LATEST: Final = "latest"
_LOCK: Final = "lock"
_NAME: Final = re.compile(r"snapshot-(\d{8,})")
_UNFINISHED: Final = ".unfinished-"
_UNWANTED: Final = ".unwanted-"


def snapshots_in(path: Path) -> list[Path]:
    """Return the folders of the snapshots in a server's folder, oldest first; none if it cannot be read."""
    try:
        return sorted((each for each in path.iterdir() if _NAME.fullmatch(each.name)), key=_number)
    except OSError:
        return []


class Folder:
    """The folder of one server, for the one who writes there.

    Args:
        path: of the folder.
        kept: how many snapshots stay.

    Attributes:
        path: as given.

    Raises:
        ValueError: `kept` is below 1.
    """

    def __init__(self, path: Path, kept: int) -> None:
        if kept < 1:
            raise ValueError(f"at least 1 snapshot must be kept, not {kept}")
        self.path = path
        self._kept = kept
        self._lock = -1

    def open(self) -> None:
        """Make the folder, take it for this process, and remove what a dead server has left; twice does nothing.

        Raises:
            OSError: the disk does not let it.
            SnapshotError: another server writes here.
        """
        if self._lock >= 0:
            return
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)  # weights are as private as the memory was
        lock = os.open(self.path / _LOCK, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise SnapshotError(
                f"another memory server writes its snapshots into {self.path}. HINT: give each another --snapshot-dir,"
                " or another --snapshot-name in it"
            ) from None
        self._lock = lock
        for each in self.path.iterdir():
            if each.name.startswith((_UNFINISHED, _UNWANTED)):
                remove(each)

    def begin(self) -> Path:
        """Make a folder for the next snapshot, which is none yet, and return it."""
        present = snapshots_in(self.path)
        number = _number(present[-1]) + 1 if present else 1
        path = self.path / f"{_UNFINISHED}{number:08d}"
        remove(path)
        path.mkdir()
        return path

    def commit(self, unfinished: Path) -> Path:
        """Have what `begin` has made count, and remove the snapshots that are too old.

        Args:
            unfinished: the folder, whose files are on the disk.

        Returns:
            The folder of the snapshot.

        Raises:
            OSError: the disk does not let it.
        """
        path = self.path / f"snapshot-{unfinished.name.removeprefix(_UNFINISHED)}"
        _sync(unfinished)
        unfinished.rename(path)
        _sync(self.path)
        link = self.path / f"{_UNFINISHED}{LATEST}"
        remove(link)
        link.symlink_to(path.name)
        link.replace(self.path / LATEST)
        _sync(self.path)
        for old in snapshots_in(self.path)[: -self._kept]:
            unwanted = self.path / f"{_UNWANTED}{old.name}"
            old.rename(unwanted)
            remove(unwanted)
        return path

    def discard(self, unfinished: Path) -> None:
        """Remove what `begin` has made, as far as the disk lets it."""
        remove(unfinished)

    def close(self) -> None:
        """Let others write here. Does nothing the second time."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _number(snapshot: Path) -> int:
    return int(snapshot.name.partition("-")[2])


def remove(path: Path) -> None:
    """Remove a file or a folder, as far as the disk lets it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    try:
        path.unlink(missing_ok=True)
    except OSError:
        pass  # the disk does not let it: it is tried again before the name is used


def _sync(folder: Path) -> None:
    """Have a folder's entries on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
