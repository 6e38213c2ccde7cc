"""Small databases, and layers that read them, as the tests need them."""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from modum.caffe.layers import make_layer
from modum.caffe.proto import TRAIN, Datum
from modum.caffe.prototxt import read_net

plyvel: Any = importlib.import_module("plyvel")

Pair = tuple[bytes, bytes]


def raw(image: NDArray[np.uint8], label: int = 0) -> bytes:
    """The record of an image [channels, height, width] as raw bytes."""
    channels, height, width = image.shape
    datum = Datum(channels=channels, height=height, width=width, data=image.tobytes(), label=label)
    return datum.SerializeToString()


def numbered(count: int, size: int = 2) -> list[Pair]:
    """Records whose label and pixels are their number."""
    return [(b"%08d" % n, raw(np.full((1, size, size), n % 256, np.uint8), n)) for n in range(count)]


def write_lmdb(path: Path, records: Iterable[Pair]) -> Path:
    with lmdb.open(str(path), map_size=1 << 28) as environment, environment.begin(write=True) as transaction:
        for key, value in records:
            transaction.put(key, value)
    return path


def write_leveldb(path: Path, records: Iterable[Pair]) -> Path:
    database = plyvel.DB(str(path), create_if_missing=True)
    with database.write_batch() as batch:
        for key, value in records:
            batch.put(key, value)
    database.close()
    return path


def noise(seed: int, *shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def picture(rows: NDArray[np.uint8], form: str = "PNG") -> bytes:
    """An image file of `rows` [height, width] or [height, width, red green blue]."""
    stream = io.BytesIO()
    Image.fromarray(rows).save(stream, form)
    return stream.getvalue()


def quote(path: Path) -> str:
    """`path` as a string of the text format."""
    return f'"{path}"'


@contextmanager
def layer(text: str, phase: int = TRAIN, seed: int = 1, bottoms: Sequence[tuple[int, ...]] = ()) -> Iterator[Any]:
    """The layer that the body `text` of a `layer {}` defines, set up, closed afterwards."""
    spec = read_net("net.prototxt", text='name: "test"\nlayer { name: "in" ' + text + " }").layer[0]
    made: Any = make_layer(spec, phase)
    try:
        made.tops = made.setup(bottoms, torch.Generator().manual_seed(seed))
        yield made
    finally:
        if hasattr(made, "close"):
            made.close()


def labels(source: Any, batches: int) -> list[int]:
    """The labels of the next batches."""
    return [int(label) for _ in range(batches) for label in source.forward()[1]]
