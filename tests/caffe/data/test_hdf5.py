"""HDF5Data and HDF5Output: what is written is read again, row by row."""

from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from modum.caffe.errors import ModelError
from tests.caffe.data.making import layer, quote

ROWS = (4, 3, 5)
"""The numbers of rows of three files."""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A list of three files, whose rows have their numbers, counted over all files, as `label` and in `data`."""
    first = 0
    for index, rows in enumerate(ROWS):
        with h5py.File(tmp_path / f"{index}.h5", "w") as file:
            numbers = np.arange(first, first + rows)
            file["data"] = np.broadcast_to(numbers[:, None, None] / 2, (rows, 2, 3))
            file["label"] = numbers.astype(np.int64)
            file["text"] = np.array([b"a"] * rows)
        first += rows
    (tmp_path / "list.txt").write_text("".join(f"{tmp_path}/{index}.h5\n" for index in range(3)))
    return tmp_path / "list.txt"


def hdf5_data(files: Path, more: str = "", batch_size: int = 5, tops: str = 'top: "data" top: "label"') -> str:
    return f'type: "HDF5Data" {tops} hdf5_data_param {{ source: {quote(files)} batch_size: {batch_size} {more} }}'


def test_rows_come_in_order_file_by_file_and_again(files: Path) -> None:
    with layer(hdf5_data(files)) as source:
        assert source.tops == [(5, 2, 3), (5,)]
        for batch in range(6):
            data, labels = source.forward()
            expected = np.arange(batch * 5, batch * 5 + 5) % 12
            assert labels.dtype == data.dtype == torch.float32
            assert np.array_equal(labels, expected)
            assert np.array_equal(data, np.broadcast_to(expected[:, None, None] / 2, (5, 2, 3)))


def test_any_number_of_datasets_are_tops_by_their_names(files: Path) -> None:
    with layer(hdf5_data(files, tops='top: "label"')) as source:
        assert source.tops == [(5,)]
        assert source.forward()[0].tolist() == [0, 1, 2, 3, 4]


def test_shuffling_changes_the_order_of_files_and_of_the_rows_of_each(files: Path) -> None:
    with layer(hdf5_data(files, "shuffle: true", batch_size=12)) as source:
        rounds = [[int(number) for number in source.forward()[1]] for _ in range(8)]
    assert all(sorted(order) == list(range(12)) for order in rounds)
    groups = [set(range(4)), set(range(4, 7)), set(range(7, 12))]
    firsts = set()
    for order in rounds:
        first = next(group for group in groups if order[0] in group)
        assert set(order[: len(first)]) == first
        firsts.add(frozenset(first))
    assert len(firsts) > 1
    assert len({tuple(order) for order in rounds}) == 8


@pytest.mark.parametrize("shuffle", ["", "shuffle: true"])
def test_workers_together_read_every_row_once_a_round(shuffle: str, files: Path) -> None:
    read = []
    for worker in range(5):
        with layer(hdf5_data(files, shuffle, batch_size=1), seed=worker) as source:
            source.shard(worker, 5, seed=3)
            read.append([int(source.forward()[1]) for _ in range(24)])
    in_turn = [number for turn in zip(*read, strict=True) for number in turn]
    for start in range(0, len(in_turn), 12):
        assert Counter(in_turn[start : start + 12]) == Counter(range(12))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('top: "label"', 'top: "other"'), r"0.h5 has no dataset 'other'; it has data, label, text"),
        (('top: "label"', 'top: "text"'), "dataset 'text' of .* must be an array of numbers"),
        (("batch_size: 5", ""), "batch_size must be positive"),
        (("list.txt", "nowhere"), "the list of HDF5 files .*nowhere cannot be read"),
        (('top: "label"', 'top: "label" transform_param { scale: 2 }'), "HDF5Data takes no transform_param"),
    ],
)
def test_what_is_wrong_is_told_when_the_net_is_made(change: tuple[str, str], message: str, files: Path) -> None:
    with pytest.raises(ModelError, match=f'^net.prototxt:2: layer "in": .*{message}'):
        with layer(hdf5_data(files).replace(*change)):
            pass


def test_files_that_are_missing_damaged_or_unlike_are_named(files: Path, tmp_path: Path) -> None:
    second = tmp_path / "1.h5"
    with h5py.File(second, "w") as file:
        file["data"], file["label"] = np.zeros((3, 2, 4)), np.zeros(3)
    with layer(hdf5_data(files, batch_size=4)) as source:
        source.forward()
        with pytest.raises(ModelError, match=r"'data' of .*1.h5 has rows of shape \[2, 4\], .* before has \[2, 3\]"):
            source.forward()
    for rows in (0, 2):
        with h5py.File(tmp_path / "0.h5", "w") as file:
            file["data"], file["label"] = np.zeros((rows, 2, 4)), np.zeros(0)
        with pytest.raises(ModelError, match="must have as many rows each, and at least one"):
            with layer(hdf5_data(files)):
                pass
    (tmp_path / "0.h5").write_bytes(b"noise")
    with pytest.raises(ModelError, match=r"0.h5 cannot be read as HDF5"):
        with layer(hdf5_data(files)):
            pass
    second.unlink()
    with pytest.raises(ModelError, match=r"there is no HDF5 file .*1.h5, line 2 of .*list.txt"):
        with layer(hdf5_data(files)):
            pass


def output(path: Path) -> str:
    return f'type: "HDF5Output" bottom: "a" bottom: "b" hdf5_output_param {{ file_name: {quote(path)} }}'


def test_every_forward_appends_its_rows_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "out.h5"
    data, labels = torch.rand(5, 2, 3), torch.arange(5.0)
    with layer(output(path), bottoms=[(5, 2, 3), (5,)]) as sink:
        assert sink.tops == []
        assert sink.forward(data[:3], labels[:3]) == ()
        assert sink.forward(data[3:], labels[3:]) == ()
        with pytest.raises(ModelError, match=r"data had rows of shape \(2, 3\), and now of \(2, 4\)"):
            sink.forward(torch.zeros(1, 2, 4), labels[:1])
    with h5py.File(path) as file:
        assert np.array_equal(file["data"], data)
        assert np.array_equal(file["label"], labels)
    with pytest.raises(ValueError, match="closed"):
        sink.forward(data, labels)


def test_output_that_cannot_be_written_or_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot write .*nowhere/out.h5"):
        with layer(output(tmp_path / "nowhere" / "out.h5"), bottoms=[(5, 2), (5,)]):
            pass
    with pytest.raises(ModelError, match="its bottoms must have as many rows each"):
        with layer(output(tmp_path / "out.h5"), bottoms=[(5, 2), (4,)]):
            pass
