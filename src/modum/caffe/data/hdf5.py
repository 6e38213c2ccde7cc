"""The layers HDF5Data and HDF5Output: arrays of any shape, from and to HDF5 files."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modum.caffe.data.base import Batch, Checkpoint, PrefetchingLayer, Source
from modum.caffe.layers.base import Layer, Range, Shape, register
from modum.caffe.proto import LayerParameter
from modum.data import DataError

__all__ = ["HDF5Data", "HDF5Output"]

OUTPUTS = ("data", "label")
"""The datasets that HDF5Output writes."""


@register("HDF5Data")
class HDF5Data(PrefetchingLayer):
    """Rows of the datasets named like the tops, file by file in the order of a list.

    Tops: any number, each [batch_size, the dimensions of a row...]. `shuffle` takes the files in a new order each
    round, and the rows of each file in a new order each time.
    """

    top_range: ClassVar[Range] = (1, None)

    def make_loader(self) -> HDF5Loader:
        return HDF5Loader(self.spec)


class HDF5Loader(Source):
    """Loads the batches of an HDF5Data layer; keeps one file in memory."""

    def __init__(self, spec: LayerParameter) -> None:
        super().__init__()
        param = spec.hdf5_data_param
        if not param.batch_size:
            raise ValueError("hdf5_data_param: batch_size must be positive")
        if spec.HasField("transform_param"):
            raise ValueError("HDF5Data takes no transform_param: transform the data when the file is made")
        self._batch_size = param.batch_size
        self._shuffle = param.shuffle
        self._names = list(spec.top)
        self._files = _read_list(param.source)
        self._order_of_files = np.arange(len(self._files))
        self._turn = 0
        self._loaded: Path | None = None
        self._datasets: list[NDArray[np.float32]] = []
        self._order_of_rows = np.arange(0)
        self._row = 0

    @property
    def needs_random(self) -> bool:
        return bool(self._shuffle)

    def shapes(self) -> list[Shape]:
        self._open(self._files[0])
        return [(self._batch_size, *dataset.shape[1:]) for dataset in self._datasets]

    def rewind(self) -> None:
        self._row = 0
        self._start_round()

    def advance(self, count: int) -> None:
        self._row += count
        while self._row >= len(self._order_of_rows):
            self._row -= len(self._order_of_rows)
            self._turn += 1
            if self._turn == len(self._files):
                self._start_round()
            else:
                self._start_file()

    def _start_round(self) -> None:
        self._turn = 0
        if self._shuffle:
            self._order_of_files = self.order.permutation(len(self._files))
        self._start_file()

    def _start_file(self) -> None:
        self._open(self._files[self._order_of_files[self._turn]])
        rows = len(self._datasets[0])
        self._order_of_rows = self.order.permutation(rows) if self._shuffle else np.arange(rows)

    def _open(self, path: Path) -> None:
        if path == self._loaded:
            return
        rows = [dataset.shape[1:] for dataset in self._datasets]
        self._datasets = _read_datasets(path, self._names)
        for name, before, dataset in zip(self._names, rows, self._datasets, strict=False):
            if before != dataset.shape[1:]:
                raise DataError(
                    f"dataset {name!r} of {path} has rows of shape {list(dataset.shape[1:])}, while the file before "
                    f"has {list(before)}"
                )
        self._loaded = path

    def load(self, checkpoint: Checkpoint) -> Batch:
        batch = [np.empty((self._batch_size, *dataset.shape[1:]), np.float32) for dataset in self._datasets]
        for item in range(self._batch_size):
            checkpoint()
            self.take_turn()
            row = self._order_of_rows[self._row]
            for array, dataset in zip(batch, self._datasets, strict=True):
                array[item] = dataset[row]
        return tuple(batch)


def _read_list(source: str) -> list[Path]:
    """Return the paths in the list at `source`, one per line."""
    try:
        lines = Path(source).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the list of HDF5 files {source} cannot be read: {error}") from error
    files = [Path(line.strip()) for line in lines if line.strip()]
    if not files:
        raise DataError(f"the list of HDF5 files {source} is empty")
    for number, file in enumerate(files, 1):
        if not file.is_file():
            raise DataError(f"there is no HDF5 file {file}, line {number} of {source}")
    return files


def _read_datasets(path: Path, names: Sequence[str]) -> list[NDArray[np.float32]]:
    """Return the whole datasets `names` of the file at `path`."""
    datasets = []
    try:
        with h5py.File(path, "r") as file:
            for name in names:
                dataset = file.get(name)
                if not isinstance(dataset, h5py.Dataset):
                    raise DataError(f"{path} has no dataset {name!r}; it has {', '.join(sorted(file)) or 'none'}")
                if dataset.ndim < 1 or dataset.dtype.kind not in "fiu":
                    raise DataError(
                        f"dataset {name!r} of {path} must be an array of numbers, but it has shape "
                        f"{list(dataset.shape)} and type {dataset.dtype}"
                    )
                datasets.append(np.asarray(dataset, np.float32))
    except OSError as error:
        raise DataError(f"{path} cannot be read as HDF5: {error}") from error
    rows = {name: len(dataset) for name, dataset in zip(names, datasets, strict=True)}
    if len(set(rows.values())) > 1 or 0 in rows.values():
        raise DataError(f"the datasets of {path} must have as many rows each, and at least one: {rows}")
    return datasets


@register("HDF5Output")
class HDF5Output(Layer):
    """Writes two bottoms to the datasets `data` and `label` of a file.

    Every `forward` appends its rows, which are in the file when it returns. Making the net creates the file, or
    empties an existing one; `close` closes it.
    """

    bottom_range: ClassVar[Range] = (2, 2)
    top_range: ClassVar[Range] = (0, 0)
    without_gradient: ClassVar[frozenset[int]] = frozenset({0, 1})
    keeps_state: ClassVar[bool] = True

    def make(self, bottoms: Sequence[Shape], generator: torch.Generator | None) -> None:
        """Create the file."""
        self.close()
        path = self.spec.hdf5_output_param.file_name
        if not path:
            raise self.error("hdf5_output_param: file_name must be set")
        try:
            self._file: h5py.File | None = h5py.File(path, "w")
        except OSError as error:
            raise self.error(f"cannot write {path}: {error}") from error
        weakref.finalize(self, self._file.close)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if not bottoms[0] or not bottoms[1] or bottoms[0][0] != bottoms[1][0]:
            raise self.error(f"its bottoms must have as many rows each, but their shapes are {bottoms}")
        return []

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        """Append the bottoms to the file.

        Args:
            *bottoms: [rows, ...] each.

        Returns:
            Nothing: the layer has no tops.

        Raises:
            ValueError: after `close`.
            ModelError: the rows' shape differs from earlier ones.
        """
        if self._file is None:
            raise ValueError(f"layer {self.name!r} is closed")
        for name, bottom in zip(OUTPUTS, bottoms, strict=True):
            rows = bottom.detach().cpu().numpy()
            if name not in self._file:
                self._file.create_dataset(name, data=rows, maxshape=(None, *rows.shape[1:]))
                continue
            dataset = self._file[name]
            if dataset.shape[1:] != rows.shape[1:]:
                raise self.error(f"{name} had rows of shape {dataset.shape[1:]}, and now of {rows.shape[1:]}")
            dataset.resize(len(dataset) + len(rows), axis=0)
            dataset[-len(rows) :] = rows
        self._file.flush()
        return ()

    def close(self) -> None:
        """Close the file; safe to repeat."""
        file = getattr(self, "_file", None)
        if file is not None:
            file.close()
        self._file = None
