"""Databases of records, read in the order of their keys: LMDB and LevelDB.

Both are opened so that nothing is written beside them: any number of processes may read one at the same time,
even in a read-only directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import shutil
import tempfile
import threading
import weakref
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import lmdb

from modum.data import DataError

__all__ = ["Cursor", "open_store"]

LMDB_FILE = "data.mdb"
LEVELDB_FILE = "CURRENT"
"""The file that every LevelDB has."""
NOT_READ = frozenset({"LOCK", "LOG", "LOG.old"})
"""Files in a LevelDB's folder that only its writers use."""
VIEW = "modum-leveldb-"
"""Prefix of the temporary folders through which LevelDBs are read."""
OWNER = "modum.owner"
"""The file in such a folder that its user keeps locked."""
META_PAGES = 2
"""Pages at the start of every LMDB that its page counts do not include."""


class Cursor(ABC):
    """A position in a database: at the first record at first, and again after the last one.

    Not for use by two threads at once, but each call may come from a different one.
    """

    path: Path

    @property
    @abstractmethod
    def key(self) -> bytes:
        """The key of the current record."""

    @property
    @abstractmethod
    def value(self) -> bytes | memoryview:
        """The current record; valid until the cursor moves."""

    @abstractmethod
    def next(self) -> None:
        """Move to the next record, from the last one to the first.

        Raises:
            DataError: the database is damaged.
        """

    @abstractmethod
    def rewind(self) -> None:
        """Move to the first record."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of records; LevelDB counts them one by one."""

    @abstractmethod
    def close(self) -> None:
        """Close the database; safe to repeat. The cursor cannot be used any more."""


def open_store(source: str | os.PathLike[str], backend: str) -> Cursor:
    """Open a database of records.

    Args:
        source: its folder, or the file of an LMDB.
        backend: "LMDB" or "LEVELDB".

    Returns:
        A cursor at the first record.

    Raises:
        DataError: there is no such database, it is of the other kind, damaged or empty, or the package that reads
            LevelDB is missing; the message says what to type.
    """
    path = Path(source)
    if not path.exists():
        place = "" if path.is_absolute() else f" in {Path.cwd()}"
        raise DataError(
            f"there is no {backend} at {path}{place}; HINT: to make it from IDX files, CIFAR batches or a list of "
            f"images: modum caffe convert --help"
        )
    is_leveldb = (path / LEVELDB_FILE).exists()
    if is_leveldb != (backend == "LEVELDB") and (is_leveldb or path.is_file() or (path / LMDB_FILE).exists()):
        kinds = ("LMDB", "LEVELDB")
        raise DataError(f"{path} is no {backend}: say backend: {kinds[is_leveldb]}")
    return LevelDBCursor(path) if backend == "LEVELDB" else LMDBCursor(path)


@dataclass
class _Environment:
    """An LMDB that is open in this process; LMDB lets a process open a database only once."""

    lmdb: lmdb.Environment
    users: int = 0


_environments: dict[tuple[int, int, int], _Environment] = {}
_environments_lock = threading.Lock()


class LMDBCursor(Cursor):
    """A cursor over an LMDB: a folder with data.mdb, or the file alone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        file = path / LMDB_FILE if path.is_dir() else path
        try:
            status = file.stat()
        except FileNotFoundError as error:
            raise DataError(f"{path} is no LMDB: it has no file {LMDB_FILE}") from error
        self._identity = (os.getpid(), status.st_dev, status.st_ino)
        with _environments_lock:
            shared = _environments.get(self._identity)
            if shared is None:
                shared = _environments[self._identity] = _Environment(_open_lmdb(path, file))
            shared.users += 1
        self._environment = shared
        self._closed = False
        self._transaction = shared.lmdb.begin(buffers=True)
        self._cursor = self._transaction.cursor()
        if not self._cursor.first():
            self.close()
            raise DataError(f"the LMDB at {path} is empty")

    @property
    def key(self) -> bytes:
        return bytes(self._cursor.key())

    @property
    def value(self) -> memoryview:
        value: memoryview = self._cursor.value()
        return value

    def next(self) -> None:
        try:
            if not self._cursor.next():
                self._cursor.first()
        except lmdb.Error as error:
            raise DataError(f"the LMDB at {self.path} is damaged: {error}") from error

    def rewind(self) -> None:
        self._cursor.first()

    def __len__(self) -> int:
        return int(self._transaction.stat(self._environment.lmdb.open_db(txn=self._transaction))["entries"])

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._cursor.close()
        self._transaction.abort()
        with _environments_lock:
            self._environment.users -= 1
            if not self._environment.users:
                self._environment.lmdb.close()
                del _environments[self._identity]


def _open_lmdb(path: Path, file: Path) -> lmdb.Environment:
    """Open an LMDB without a lock file, as no process writes to a database during training.

    A truncated file is refused if its page counts show it: reading past its end would kill the process.
    """
    try:
        environment = lmdb.open(str(path), subdir=path.is_dir(), readonly=True, lock=False, create=False)
        statistics = environment.stat()
    except lmdb.Error as error:
        raise DataError(f"{path} cannot be read as an LMDB: {error}") from error
    pages = META_PAGES + sum(statistics[kind] for kind in ("branch_pages", "leaf_pages", "overflow_pages"))
    size = file.stat().st_size
    if size < pages * statistics["psize"]:
        environment.close()
        raise DataError(
            f"{file} is cut short: {size} bytes, while {pages} pages of {statistics['psize']} bytes are in use"
        )
    return environment


class LevelDBCursor(Cursor):
    """A cursor over a LevelDB.

    LevelDB locks its folder and writes to it even to read. So this class opens a temporary folder of
    symbolic links to the database's files, and LevelDB writes there. A folder left by a killed process
    is removed when the next one is made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not (path / LEVELDB_FILE).exists():
            raise DataError(f"{path} is no LevelDB: it has no file {LEVELDB_FILE}")
        package = _leveldb_package()
        _remove_abandoned()
        view = Path(tempfile.mkdtemp(prefix=VIEW))
        self._remove_view = weakref.finalize(self, _remove, view, _take(view))  # at the end of the process too
        for file in path.iterdir():
            if file.name == LEVELDB_FILE:  # is replaced when opened
                shutil.copyfile(file, view / file.name)
            elif file.name not in NOT_READ:
                (view / file.name).symlink_to(file.absolute())
        try:
            self._database: Any = package.DB(str(view))
        except package.Error as error:
            self._remove_view()
            raise DataError(f"{path} cannot be read as a LevelDB: {error}") from error
        self._package = package
        self._iterator: Any = self._database.raw_iterator(verify_checksums=True, fill_cache=False)
        self._iterator.seek_to_first()
        if not self._iterator.valid():
            self.close()
            raise DataError(f"the LevelDB at {path} is empty")

    @property
    def key(self) -> bytes:
        key: bytes = self._iterator.key()
        return key

    @property
    def value(self) -> bytes:
        value: bytes = self._iterator.value()
        return value

    def next(self) -> None:
        try:
            self._iterator.next()
            if not self._iterator.valid():
                self._iterator.seek_to_first()
        except self._package.Error as error:
            raise DataError(f"the LevelDB at {self.path} is damaged: {error}") from error

    def rewind(self) -> None:
        self._iterator.seek_to_first()

    def __len__(self) -> int:
        with self._database.iterator(include_value=False, fill_cache=False) as keys:
            return sum(1 for _ in keys)

    def close(self) -> None:
        if not self._remove_view.alive:
            return
        self._iterator.close()
        self._database.close()
        self._remove_view()


def _take(view: Path) -> int:
    """Return a descriptor that holds the lock of a new folder; no other process can lock it before it has its name."""
    unnamed = view / f"{OWNER}.new"
    owner = os.open(unnamed, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(owner, fcntl.LOCK_EX)
    unnamed.rename(view / OWNER)
    return owner


def _remove(view: Path, owner: int) -> None:
    shutil.rmtree(view)
    os.close(owner)


def _remove_abandoned() -> None:
    """Remove folders whose lock is free: the kernel released it when their users died."""
    for file in Path(tempfile.gettempdir()).glob(f"{VIEW}*/{OWNER}"):
        with contextlib.suppress(OSError):  # it is in use, another user's, or gone by now
            owner = os.open(file, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(file.parent)
            finally:
                os.close(owner)


def _leveldb_package() -> ModuleType:
    """Return the package that reads LevelDB: plyvel, or its successor for newer Pythons."""
    for name in ("plyvel", "plyvel_next"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    raise DataError("LevelDB needs a package that is not installed; HINT: pip install 'modum[caffe]'")
