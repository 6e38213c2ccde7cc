"""Make the databases and mean files that Caffe's nets read, with the same records as Caffe's own converters."""

from __future__ import annotations

import gzip
import random
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import TypeAlias

import lmdb
import numpy as np
from numpy.typing import NDArray

from modum.caffe.data.datum import naming, parse, pixels
from modum.caffe.data.images import read_image_list
from modum.caffe.data.pictures import encode, read
from modum.caffe.data.store import open_store
from modum.caffe.proto import Datum
from modum.caffe.weights import write_mean
from modum.data import DataError
from modum.data.idx import parse_idx

__all__ = ["convert_cifar", "convert_idx", "convert_images", "mean_image"]

Report: TypeAlias = Callable[[int, int], None]
"""Called during the work, with the number of records done and of all records."""
FilePath: TypeAlias = "str | PathLike[str]"

CIFAR_SIDE = 32
CIFAR_CHANNELS = 3
CIFAR_BYTES = CIFAR_CHANNELS * CIFAR_SIDE * CIFAR_SIDE
LARGEST_DATABASE = 1 << 40
"""Address space reserved for writing, in bytes; the file is as long as its records need."""
TRANSACTION = 1000
"""Records written at a time."""
DECODING_AHEAD = 16
"""Images to read ahead while others are written."""


def convert_idx(images: FilePath, labels: FilePath, database: FilePath, *, report: Report | None = None) -> int:
    """Write an LMDB of the grey images in IDX files; record i has key `%08d` of i, one channel, and raw bytes.

    Args:
        images: file of images [n, height, width], plain or compressed (.gz).
        labels: file of their labels [n], plain or compressed.
        database: directory to create.
        report: called with the number of images written so far, and of all images.

    Returns:
        The number of images.

    Raises:
        DataError: a file is missing or not IDX, the numbers of labels and images differ, or something exists at
            `database`.
    """
    pictures = _read_idx(Path(images), 3)
    classes = _read_idx(Path(labels), 1)
    if len(pictures) != len(classes):
        raise DataError(f"{images} has {len(pictures)} images, but {labels} has {len(classes)} labels")
    _, height, width = pictures.shape
    records = (
        (b"%08d" % index, Datum(channels=1, height=height, width=width, data=picture.tobytes(), label=int(label)))
        for index, (picture, label) in enumerate(zip(pictures, classes, strict=True))
    )
    return _write(database, records, len(pictures), report)


def _read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Return the array of bytes in the IDX file at `path`, which must have `dimensions` dimensions."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    try:
        return parse_idx(content, [length for (length,) in struct.iter_unpack(">I", content[4 : 4 + 4 * dimensions])])
    except (DataError, struct.error) as error:
        raise DataError(f"{path} is not an IDX file of {dimensions} dimensions: {error}") from error


def convert_cifar(batches: Sequence[FilePath], database: FilePath, *, report: Report | None = None) -> int:
    """Write an LMDB of the images in CIFAR's binary batches; record i has key `%05d` of i, 3 x 32 x 32, and raw bytes.

    Args:
        batches: files, in order; each image is a byte for the label and 32 x 32 bytes each of red, green and blue
            (CIFAR-10's format).
        database: directory to create.
        report: called with the number of images written so far, and of all images.

    Returns:
        The number of images.

    Raises:
        DataError: a batch is missing or is not a whole number of images, or something exists at `database`.
    """
    arrays = []
    for batch in map(Path, batches):
        try:
            content = np.fromfile(batch, np.uint8)
        except OSError as error:
            raise DataError(f"{batch} cannot be read: {error.strerror}") from error
        if not len(content) or len(content) % (CIFAR_BYTES + 1):
            raise DataError(f"{batch} is no CIFAR-10 batch: {len(content)} bytes are no multiple of {CIFAR_BYTES + 1}")
        arrays.append(content.reshape(-1, CIFAR_BYTES + 1))
    images = np.concatenate(arrays)
    records = (
        (
            b"%05d" % index,
            Datum(
                channels=CIFAR_CHANNELS, height=CIFAR_SIDE, width=CIFAR_SIDE, data=row[1:].tobytes(), label=int(row[0])
            ),
        )
        for index, row in enumerate(images)
    )
    return _write(database, records, len(images), report)


def convert_images(
    root: FilePath,
    source: FilePath,
    database: FilePath,
    *,
    size: tuple[int, int] | None = None,
    gray: bool = False,
    shuffle: bool = False,
    seed: int | None = None,
    encoded: bool = False,
    check_size: bool = False,
    report: Report | None = None,
) -> int:
    """Write an LMDB of the images in a list; record i has key `%08d_path` of i and the image's path.

    Args:
        root: root directory of the images.
        source: the list: a file with a path below `root` and a label on each line.
        database: directory to create.
        size: (height, width) to resize to; None: do not resize.
        gray: one channel instead of three (blue, green, red).
        shuffle: whether to shuffle the images, by `seed`.
        seed: seed of that order; None: a different one each time.
        encoded: keep the files' contents unchanged, or as PNG if they are resized or made grey: a smaller
            database, whose images are decoded in training.
        check_size: whether to refuse images of different sizes.
        report: called with the number of images written so far, and of all images.

    Returns:
        The number of images.

    Raises:
        DataError: the list or an image is missing or not valid, or something exists at `database`.
    """
    images = read_image_list(source)
    if shuffle:
        random.Random(seed).shuffle(images)  # noqa: S311 - keeps no secret

    def record(item: tuple[int, tuple[str, int]]) -> tuple[bytes, Datum]:
        index, (path, label) = item
        key = f"{index:08d}_{path}".encode()
        file = Path(root) / path
        picture = read(file, color=not gray, size=size)
        datum = Datum(channels=picture.shape[0], height=picture.shape[1], width=picture.shape[2], label=label)
        if encoded:
            datum.encoded = True
            datum.data = file.read_bytes() if size is None and not gray else encode(picture)
        else:
            datum.encoded = False
            datum.data = picture.tobytes()
        return key, datum

    def records() -> Iterator[tuple[bytes, Datum]]:
        first: tuple[int, int, int] | None = None
        with ThreadPoolExecutor(thread_name_prefix="modum convert") as threads:
            waiting = enumerate(images)
            futures = [threads.submit(record, item) for item in islice(waiting, DECODING_AHEAD)]
            while futures:
                key, datum = futures.pop(0).result()
                futures += [threads.submit(record, item) for item in islice(waiting, 1)]
                shape = (datum.channels, datum.height, datum.width)
                first = first or shape
                if check_size and shape != first:
                    raise DataError(f"{key.decode()} has shape {list(shape)}, and the first image {list(first)}")
                yield key, datum

    return _write(database, records(), len(images), report)


def mean_image(
    database: FilePath, mean: FilePath | None = None, *, backend: str = "LMDB", report: Report | None = None
) -> NDArray[np.float32]:
    """Compute the mean of all images of a database.

    Args:
        database: a database of images of one shape.
        mean: file to write it to, such as `mean.binaryproto`; None: none.
        backend: "LMDB" or "LEVELDB".
        report: called with the number of images read so far, and of all images.

    Returns:
        The mean, float32 [channels, height, width].

    Raises:
        DataError: the database cannot be read, or its images differ in shape.
    """
    cursor = open_store(database, backend)
    try:
        records = len(cursor)
        total: NDArray[np.float64] | None = None
        for index in range(records):
            with naming(lambda: f"record {cursor.key.decode(errors='replace')} of {database}"):
                picture = pixels(parse(cursor.value), color=None)
                if total is None:
                    total = np.zeros(picture.shape)
                if picture.shape != total.shape:
                    raise DataError(f"has shape {list(picture.shape)}, and the first one {list(total.shape)}")
                total += picture
            cursor.next()
            if report:
                report(index + 1, records)
    finally:
        cursor.close()
    assert total is not None, "open_store refuses an empty database"
    average = (total / records).astype(np.float32)
    if mean is not None:
        write_mean(mean, average)
    return average


def _write(database: FilePath, records: Iterable[tuple[bytes, Datum]], number: int, report: Report | None) -> int:
    """Write `records`, in the order of their keys, to a new LMDB, which appears at `database` once complete."""
    target = Path(database)
    if target.exists():
        raise DataError(f"{target} exists already: remove it, or choose another name")
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        with lmdb.open(str(unfinished), map_size=LARGEST_DATABASE, lock=False) as environment:
            remaining = iter(records)
            done = 0
            while some := list(islice(remaining, TRANSACTION)):
                with environment.begin(write=True) as transaction:
                    for key, datum in some:
                        transaction.put(key, datum.SerializeToString())
                done += len(some)
                if report:
                    report(done, number)
        unfinished.chmod(0o755)
        unfinished.rename(target)
    except lmdb.Error as error:
        raise DataError(f"{target} cannot be written: {error}") from error
    finally:
        if unfinished.exists():
            shutil.rmtree(unfinished)
    return done
