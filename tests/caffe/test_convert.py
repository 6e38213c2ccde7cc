"""Databases and mean files: record by record what Caffe's converters make."""

import gzip
import struct
from pathlib import Path

import lmdb
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from modum.caffe.convert import convert_cifar, convert_idx, convert_images, mean_image
from modum.caffe.proto import BlobProto, Datum
from modum.caffe.weights import read_mean
from modum.cli.caffe_convert import app
from modum.data import DataError
from tests.caffe.data.making import noise, raw, write_leveldb, write_lmdb


def records(database: Path) -> dict[bytes, bytes]:
    with lmdb.open(str(database), readonly=True, lock=False) as environment, environment.begin() as transaction:
        return dict(transaction.cursor())


def write_idx(path: Path, array: NDArray[np.uint8]) -> Path:
    content = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files_become_grey_records_with_eight_digits(suffix: str, tmp_path: Path) -> None:
    images, labels = noise(0, 2500, 4, 5), noise(1, 2500)
    progress: list[tuple[int, int]] = []
    number = convert_idx(
        write_idx(tmp_path / f"images{suffix}", images),
        write_idx(tmp_path / f"labels{suffix}", labels),
        tmp_path / "new" / "database",
        report=lambda done, total: progress.append((done, total)),
    )
    assert number == 2500
    found = records(tmp_path / "new" / "database")
    assert found == {b"%08d" % n: raw(images[n : n + 1], int(labels[n])) for n in range(2500)}
    assert progress == [(1000, 2500), (2000, 2500), (2500, 2500)]
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["database"]


def test_cifar_batches_become_color_records_with_five_digits(tmp_path: Path) -> None:
    batches = [noise(n, 3, 3073) for n in range(2)]
    for n, batch in enumerate(batches):
        batch.tofile(tmp_path / f"{n}.bin")
    assert convert_cifar([tmp_path / "0.bin", tmp_path / "1.bin"], tmp_path / "database") == 6
    found = records(tmp_path / "database")
    rows = np.concatenate(batches)
    assert found == {b"%05d" % n: raw(rows[n, 1:].reshape(3, 32, 32), int(rows[n, 0])) for n in range(6)}


@pytest.fixture
def photos(tmp_path: Path) -> tuple[Path, Path]:
    """A folder and a list of images, of different sizes."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for n in range(30):
        Image.fromarray(noise(n, 4 + n % 2, 6, 3)).save(folder / f"{n}.png")
    (tmp_path / "list.txt").write_text("".join(f"{n}.png {n * 2}\n" for n in range(30)))
    return folder, tmp_path / "list.txt"


def test_image_lists_become_records_with_their_paths(photos: tuple[Path, Path], tmp_path: Path) -> None:
    assert convert_images(*photos, tmp_path / "database") == 30
    found = records(tmp_path / "database")
    assert list(found) == [f"{n:08d}_{n}.png".encode() for n in range(30)]
    for n, value in enumerate(found.values()):
        datum = Datum.FromString(value)
        blue_first = noise(n, 4 + n % 2, 6, 3)[..., ::-1].transpose(2, 0, 1)
        assert (datum.channels, datum.height, datum.width, datum.label) == (3, 4 + n % 2, 6, 2 * n)
        assert datum.data == blue_first.tobytes()
        assert not datum.encoded


def test_images_can_be_resized_made_grey_and_shuffled(photos: tuple[Path, Path], tmp_path: Path) -> None:
    for name in ("one", "two"):
        convert_images(*photos, tmp_path / name, size=(8, 9), gray=True, shuffle=True, seed=4, check_size=True)
    found = records(tmp_path / "one")
    assert found == records(tmp_path / "two")
    datums = [Datum.FromString(value) for value in found.values()]
    assert {(datum.channels, datum.height, datum.width) for datum in datums} == {(1, 8, 9)}
    order = [datum.label for datum in datums]
    assert sorted(order) == list(range(0, 60, 2)) != order


def test_encoded_images_stay_as_they_are_unless_they_are_changed(photos: tuple[Path, Path], tmp_path: Path) -> None:
    convert_images(*photos, tmp_path / "same", encoded=True)
    convert_images(*photos, tmp_path / "grey", encoded=True, gray=True)
    convert_images(*photos, tmp_path / "plain", gray=True)
    for name, value in records(tmp_path / "same").items():
        datum = Datum.FromString(value)
        assert datum.encoded
        assert datum.data == (photos[0] / name.decode().split("_")[1]).read_bytes()
    assert np.array_equal(_pixels(tmp_path / "grey", 3), _pixels(tmp_path / "plain", 3))


def _pixels(database: Path, number: int) -> NDArray[np.uint8]:
    from modum.caffe.data.datum import parse, pixels

    return np.asarray(pixels(parse(list(records(database).values())[number]), None), np.uint8)


@pytest.mark.parametrize("backend", ["LMDB", "LEVELDB"])
def test_the_mean_is_that_of_all_images(backend: str, tmp_path: Path) -> None:
    images = noise(0, 40, 3, 5, 6)
    write = write_lmdb if backend == "LMDB" else write_leveldb
    database = write(tmp_path / "database", [(b"%02d" % n, raw(image)) for n, image in enumerate(images)])
    average = mean_image(database, tmp_path / "mean.binaryproto", backend=backend)
    assert np.array_equal(average, images.mean(0, dtype=np.float64).astype(np.float32))
    assert np.array_equal(read_mean(tmp_path / "mean.binaryproto"), average)
    blob = BlobProto.FromString((tmp_path / "mean.binaryproto").read_bytes())
    assert (blob.num, blob.channels, blob.height, blob.width) == (1, 3, 5, 6)


def test_what_cannot_be_converted_is_told_and_leaves_no_database(photos: tuple[Path, Path], tmp_path: Path) -> None:
    database = tmp_path / "new" / "database"
    images = write_idx(tmp_path / "images", noise(0, 3, 2, 2))
    labels = write_idx(tmp_path / "labels", noise(1, 2))
    for expected, convert in (
        ("has 3 images, but .* has 2 labels", lambda: convert_idx(images, labels, database)),
        ("labels is not an IDX file of 3 dim", lambda: convert_idx(labels, labels, database)),
        ("nowhere cannot be read", lambda: convert_idx(tmp_path / "nowhere", labels, database)),
        ("no CIFAR-10 batch: 28 bytes are no multiple of 3073", lambda: convert_cifar([images], database)),
        ("nowhere cannot be read", lambda: convert_cifar([tmp_path / "nowhere"], database)),
        (r"shape \[3, 5, 6\], and the first", lambda: convert_images(*photos, database, check_size=True)),
        ("0.png cannot be read", lambda: convert_images(tmp_path, photos[1], database)),
        ("there is no LMDB", lambda: mean_image(database)),
    ):
        with pytest.raises(DataError, match=expected):
            convert()
    assert not list(tmp_path.glob("new/*"))
    with pytest.raises(DataError, match="exists already: remove it, or choose another name"):
        convert_images(*photos, tmp_path / "photos")
    different = write_lmdb(tmp_path / "different", [(b"0", raw(noise(0, 1, 2, 2))), (b"1", raw(noise(0, 1, 2, 3)))])
    with pytest.raises(
        DataError, match=r"record 1 of .*different: has shape \[1, 2, 3\], and the first one \[1, 2, 2\]"
    ):
        mean_image(different)


def test_paths_too_long_for_a_key_are_told(tmp_path: Path) -> None:
    name = "/".join(["f" * 200] * 3)
    (tmp_path / name).parent.mkdir(parents=True)
    Image.fromarray(noise(0, 2, 2)).save(tmp_path / name, "PNG")
    (tmp_path / "list.txt").write_text(f"{name} 1\n")
    with pytest.raises(DataError, match="database cannot be written: "):
        convert_images(tmp_path, tmp_path / "list.txt", tmp_path / "database")
    assert not (tmp_path / "database").exists()


def test_the_commands_convert_and_say_what_they_made(photos: tuple[Path, Path], tmp_path: Path) -> None:
    images = write_idx(tmp_path / "images", np.full((4, 2, 2), 7, np.uint8))
    labels = write_idx(tmp_path / "labels", noise(1, 4))
    noise(0, 3073).tofile(tmp_path / "batch.bin")
    folder, source = photos
    mean = tmp_path / "mean.binaryproto"
    run = CliRunner().invoke
    for arguments, expected in (
        (["idx", images, labels, tmp_path / "a"], f"4 records in {tmp_path}/a\n"),
        (["mean", tmp_path / "a", mean], f"mean of 1 x 2 x 2 in {mean}; of each channel: 7.0000\n"),
        (["cifar", tmp_path / "batch.bin", tmp_path / "b"], f"1 records in {tmp_path}/b\n"),
        (
            ["images", folder, source, tmp_path / "c", "--resize-height", "4", "--resize_width=4", "--gray"],
            f"30 records in {tmp_path}/c\n",
        ),
    ):
        result = run(app, [str(argument) for argument in arguments])
        assert (result.exit_code, result.stdout) == (0, expected)
    again = run(app, ["idx", str(images), str(labels), str(tmp_path / "d"), "--mean", str(mean)])
    assert again.stdout.splitlines()[1].startswith("mean of 1 x 2 x 2")
    assert run(app, ["cifar", str(tmp_path / "e")]).exit_code == 2
    assert run(app, ["images", str(folder), str(source), str(tmp_path / "f"), "--resize-width", "4"]).exit_code == 2
