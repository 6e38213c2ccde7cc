"""Count the bytes of a model's weights in a file of any front end; frameworks are loaded only if needed."""

from __future__ import annotations

import json
import math
import struct
import zipfile
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modum.units import parse_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_HEADER = 100_000_000
"""Largest header of a safetensors file, in bytes (the format's own limit)."""


def model_bytes(model: str) -> int:
    """Return the bytes of a model's weights. Optimizer state and integers do not count.

    Args:
        model: an amount such as `100MB`, or a file: `.prototxt` (a Caffe net whose inputs have shapes), `.caffemodel`
            and Caffe's `.h5`, `.keras` and Keras's `.h5`, `.safetensors`, and PyTorch's `.pt`, `.pth` and `.bin`.

    Returns:
        Bytes of all tensors of a floating dtype.

    Raises:
        ValueError: there is no such file, its kind is unknown, or it cannot be read; the message says which.
    """
    path = Path(model)
    read = READERS.get(path.suffix.lower())
    if read is None:
        if path.exists():
            raise ValueError(f"{model}: of no kind that has weights; give one of {', '.join(READERS)}, or 100MB")
        try:
            return parse_bytes(model)
        except ValueError:
            raise ValueError(
                f"{model!r} is neither a file nor an amount; give a model ({', '.join(READERS)}) or 100MB"
            ) from None
    if not path.is_file():
        raise ValueError(f"there is no file {model}")
    try:
        nbytes = read(path)
    except ImportError as error:
        raise ValueError(f"{model}: reading it needs {error.name}\nHINT: pip install {error.name}") from None
    if nbytes < 1:
        raise ValueError(f"{model}: holds no weights")
    return nbytes


def _prototxt(path: Path) -> int:
    from modum.caffe import CaffeError, ModelError, Net

    try:
        with Net(path) as net:
            return 4 * sum(blob.data.size for blobs in net.params.values() for blob in blobs)
    except (CaffeError, ModelError) as error:
        raise ValueError(f"{error}\nHINT: a net whose data is not here cannot be sized: give deploy.prototxt") from None


def _caffemodel(path: Path) -> int:
    from modum.caffe.errors import CaffeError
    from modum.caffe.weights import read_weights

    try:
        return 4 * sum(blob.size for blobs in read_weights(path).values() for blob in blobs)
    except CaffeError as error:
        raise ValueError(str(error)) from None


def _hdf5(path: Path | BytesIO) -> int:
    """Return the bytes of all float datasets except the optimizer's."""
    import h5py

    total = 0

    def count(name: str, item: Any) -> None:
        nonlocal total
        if isinstance(item, h5py.Dataset) and item.dtype.kind == "f" and "optimizer" not in name.split("/")[0]:
            total += item.size * item.dtype.itemsize

    try:
        with h5py.File(path, "r") as file:
            file.visititems(count)
    except OSError as error:
        raise ValueError(f"{path}: is not an HDF5 file: {error}") from None
    return total


def _keras(path: Path) -> int:
    try:
        with zipfile.ZipFile(path) as archive:
            weights = archive.read("model.weights.h5")
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"{path}: is not a .keras file: {error}") from None
    return _hdf5(BytesIO(weights))


def _safetensors(path: Path) -> int:
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else MOST_HEADER + 1
        if length > MOST_HEADER:
            raise ValueError(f"{path}: is not a safetensors file: its header would have {length} bytes")
        try:
            header = json.loads(file.read(length))
            tensors = [tensor for name, tensor in header.items() if name != "__metadata__"]
            spans = [tensor["data_offsets"] for tensor in tensors if tensor["dtype"].startswith(("F", "BF"))]
            return sum(end - begin for begin, end in spans)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: is not a safetensors file: {error}") from None


def _torch(path: Path) -> int:
    import pickle

    import torch

    try:
        content = torch.load(path, map_location="meta", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{path}: is not a PyTorch file of tensors alone: {str(error).splitlines()[0]}\n"
            "HINT: save the weights with torch.save(model.state_dict(), ...)"
        ) from None
    return _tensors(_state(content))


def _state(content: Any) -> Any:
    """Return the model's part of a checkpoint that may hold more."""
    if isinstance(content, dict):
        for key in ("state_dict", "model_state_dict", "model"):
            if isinstance(content.get(key), dict):
                return content[key]
    return content


def _tensors(content: Any) -> int:
    import torch

    if isinstance(content, torch.Tensor):
        return math.prod(content.shape) * content.element_size() if content.is_floating_point() else 0
    if isinstance(content, dict):
        return sum(_tensors(item) for name, item in content.items() if name != "optimizer")
    if isinstance(content, list | tuple):
        return sum(_tensors(item) for item in content)
    return 0


READERS: dict[str, Callable[[Path], int]] = {
    ".prototxt": _prototxt,
    ".caffemodel": _caffemodel,
    ".h5": _hdf5,
    ".keras": _keras,
    ".safetensors": _safetensors,
    ".pt": _torch,
    ".pth": _torch,
    ".bin": _torch,
}
