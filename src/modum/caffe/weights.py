"""Read and write trained weights, as Caffe does: `.caffemodel`, and `.caffemodel.h5`.

The functions for states and means, from `state.py` and `arrays.py`, are here too.
A binary file is a NetParameter whose layers have their blobs. An HDF5 file has the dataset `/data/LAYER/INDEX` for each
blob. When reading, a file's first bytes tell which of the two it is; when writing, the suffix `.h5` does.
"""

from collections.abc import Mapping, Sequence
from os import PathLike

import h5py
import numpy as np
from numpy.typing import NDArray

from modum.caffe.arrays import (
    from_blob,
    is_hdf5,
    open_hdf5,
    parse_file,
    read_mean,
    replace_file,
    to_blob,
    write_mean,
    write_message,
)
from modum.caffe.errors import CaffeError
from modum.caffe.proto import LayerParameter, NetParameter
from modum.caffe.prototxt import without_source
from modum.caffe.state import State, read_state, write_state

__all__ = [
    "State",
    "read_mean",
    "read_state",
    "read_weights",
    "same_shape",
    "write_mean",
    "write_state",
    "write_weights",
]


def read_weights(path: str | PathLike[str]) -> dict[str, list[NDArray[np.floating]]]:
    """Read the weights in a file, also of V1 and V0 nets.

    Args:
        path: path of a `.caffemodel` or `.h5` file.

    Returns:
        The blobs of each layer that has any, by the layer's name, in Caffe's order: float32, or float64 if the file
        is, in the file's shape. Blobs in files from before Caffe had shapes have four dimensions, which `same_shape`
        accepts.

    Raises:
        CaffeError: the file cannot be read.
    """
    if is_hdf5(path):
        with open_hdf5(path) as file:
            if not isinstance(file.get("data"), h5py.Group):
                raise CaffeError(f"{path}: is not a file of weights: it has no group /data")
            return _read_group(file["data"])
    net = parse_file(NetParameter(), path)
    if not net.layer and not net.layers:
        raise CaffeError(f"{path}: is not a file of weights: it has no layers")
    blobs = {layer.name: layer.blobs for layer in net.layer}
    for layer in net.layers:
        old = layer.layer if layer.HasField("layer") else layer
        blobs[old.name] = old.blobs
    return {name: [from_blob(blob, path) for blob in arrays] for name, arrays in blobs.items() if len(arrays) > 0}


def write_weights(
    path: str | PathLike[str],
    layers: Sequence[LayerParameter],
    blobs: Mapping[str, Sequence[NDArray[np.floating]]],
    name: str = "",
    diffs: Mapping[str, Sequence[NDArray[np.floating]]] | None = None,
) -> None:
    """Write weights to a file, which appears only once it is complete, and replaces an existing one.

    Args:
        path: path of the file; HDF5 if it ends in `.h5`.
        layers: the net's layers.
        blobs: blobs of each layer, by its name.
        name: the net's name.
        diffs: a gradient for each blob, to write those too.

    Raises:
        CaffeError: a binary file would have 2 GiB or more, which Caffe could not read.
        OSError: it cannot be written.
    """
    if str(path).endswith(".h5"):
        with replace_file(path) as temporary, h5py.File(temporary, "w") as file:
            for kind, arrays in ({"data": blobs} if diffs is None else {"data": blobs, "diff": diffs}).items():
                for layer in layers:
                    group = file.require_group(f"{kind}/{layer.name}")
                    for index, array in enumerate(arrays.get(layer.name, ())):
                        group.create_dataset(str(index), data=array)
        return
    net = NetParameter(name=name)
    for layer in layers:
        written = net.layer.add()
        written.CopyFrom(without_source(layer))
        del written.blobs[:]
        for index, array in enumerate(blobs.get(layer.name, ())):
            to_blob(array, written.blobs.add(), diffs[layer.name][index] if diffs is not None else None)
    write_message(net, path)


def same_shape(found: Sequence[int], wanted: Sequence[int]) -> bool:
    """Return whether an array of shape `found` in a weights file fits a blob of shape `wanted`.

    It does if they are equal, or `found` has an old file's four dimensions: `wanted` padded with 1 in front.
    """
    padded = (1,) * (4 - len(wanted)) + tuple(wanted)
    return tuple(found) in (tuple(wanted), padded)


def _read_group(group: h5py.Group, prefix: str = "") -> dict[str, list[NDArray[np.floating]]]:
    """Return the datasets of each layer in `group`; a slash in a layer's name makes nested groups."""
    weights: dict[str, list[NDArray[np.floating]]] = {}
    for name, member in group.items():
        if isinstance(member, h5py.Dataset):
            continue
        datasets = {key: value for key, value in member.items() if isinstance(value, h5py.Dataset)}
        if datasets:
            weights[prefix + name] = [np.asarray(datasets[key]) for key in sorted(datasets, key=int)]
        if len(datasets) < len(member):
            weights.update(_read_group(member, f"{prefix}{name}/"))
    return weights
