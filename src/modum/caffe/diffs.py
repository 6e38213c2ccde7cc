"""Save gradients beside their weights, for `snapshot_diff: true`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import h5py
import numpy as np

from modum.caffe.arrays import parse_file, write_message
from modum.caffe.proto import NetParameter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["write_diffs"]


def write_diffs(path: str | Path, diffs: Mapping[str, Sequence[NDArray[np.float32]]]) -> None:
    """Add `diffs` (the blobs of each layer, by its name) to a file that `modum.caffe.weights` wrote."""
    if str(path).endswith(".h5"):
        with h5py.File(path, "a") as file:
            for name, arrays in diffs.items():
                for index, array in enumerate(arrays):
                    file.create_dataset(f"diff/{name}/{index}", data=array)
        return
    net = parse_file(NetParameter(), path)
    for layer in net.layer:
        for blob, array in zip(layer.blobs, diffs.get(layer.name, ()), strict=False):
            blob.diff.extend(np.ravel(array).tolist())
    write_message(net, path)
