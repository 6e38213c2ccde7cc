"""Data layers: which records come when, what becomes of them, and what is said about bad ones."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from modum.caffe.errors import ModelError
from modum.caffe.proto import TEST, TRAIN, Datum
from tests.caffe.data.making import (
    labels,
    layer,
    noise,
    numbered,
    picture,
    quote,
    raw,
    write_leveldb,
    write_lmdb,
)


def data(path: Path, rest: str = "", batch_size: int = 4, backend: str = "LMDB") -> str:
    return f"""type: "Data" top: "data" top: "label"
        data_param {{ source: {quote(path)} backend: {backend} batch_size: {batch_size} }} {rest}"""


@pytest.mark.parametrize("backend", ["LMDB", "LEVELDB"])
def test_batches_hold_the_records_in_order_and_go_on_at_the_first_one(backend: str, tmp_path: Path) -> None:
    write = write_lmdb if backend == "LMDB" else write_leveldb
    database = write(tmp_path / "database", numbered(10))
    with layer(data(database, backend=backend)) as source:
        assert source.tops == [(4, 1, 2, 2), (4,)]
        assert source.reshape([]) == source.tops
        for batch in range(8):
            images, numbers = source.forward()
            expected = np.arange(batch * 4, batch * 4 + 4) % 10
            assert np.array_equal(numbers, expected)
            assert np.array_equal(images, np.broadcast_to(expected[:, None, None, None], (4, 1, 2, 2)))
            assert images.dtype.is_floating_point
            assert numbers.dtype == images.dtype


def test_without_a_second_top_there_are_no_labels(tmp_path: Path) -> None:
    database = write_lmdb(tmp_path / "database", numbered(3))
    with layer(data(database).replace('top: "label"', "")) as source:
        assert source.tops == [(4, 1, 2, 2)]
        (images,) = source.forward()
        assert images[:, 0, 0, 0].tolist() == [0, 1, 2, 0]


def test_leveldb_is_the_kind_of_database_that_nobody_names(tmp_path: Path) -> None:
    database = write_leveldb(tmp_path / "database", numbered(3))
    with layer(data(database).replace("backend: LMDB", "")) as source:
        assert labels(source, 1) == [0, 1, 2, 0]


@pytest.mark.parametrize("records", [7, 12])
@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_workers_together_read_every_record_once_a_round(workers: int, records: int, tmp_path: Path) -> None:
    database = write_lmdb(tmp_path / "database", numbered(records))
    read: list[list[int]] = []
    for worker in range(workers):
        with layer(data(database, batch_size=1)) as source:
            source.shard(worker, workers)
            read.append(labels(source, 3 * records))
    in_turn = [number for turn in zip(*read, strict=True) for number in turn]
    assert in_turn == [number % records for number in range(3 * records * workers)]
    for start in range(0, len(in_turn), records):
        assert Counter(in_turn[start : start + records]) == Counter(range(records))


def test_sharding_is_refused_where_it_cannot_be(tmp_path: Path) -> None:
    database = write_lmdb(tmp_path / "database", numbered(3))
    with layer(data(database)) as source:
        for worker, workers in ((2, 2), (-1, 2), (0, 0)):
            with pytest.raises(ValueError, match=rf"worker \({worker}\) must be at least 0 and less than workers"):
                source.shard(worker, workers)
        source.forward()
        with pytest.raises(ValueError, match="before the first batch"):
            source.shard(0, 2)


def test_rewinding_goes_back_to_the_first_batch_with_the_same_random_choices(tmp_path: Path) -> None:
    images = [(b"%02d" % n, raw(noise(n, 3, 9, 9), n)) for n in range(11)]
    database = write_lmdb(tmp_path / "database", images)
    with layer(data(database, "transform_param { crop_size: 4 mirror: true }")) as source:
        first = [source.forward() for _ in range(5)]
        source.rewind()
        again = [source.forward() for _ in range(5)]
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(one[0], other[0])
        assert np.array_equal(one[1], other[1])


def test_the_seed_decides_on_crops_and_each_worker_has_its_own(tmp_path: Path) -> None:
    database = write_lmdb(tmp_path / "database", [(b"0", raw(noise(0, 1, 40, 40)))])

    def batch(seed: int, worker: int = 0, workers: int = 1) -> bytes:
        with layer(data(database, "transform_param { crop_size: 5 }"), seed=seed) as source:
            source.shard(worker, workers)
            content: bytes = source.forward()[0].numpy().tobytes()
            return content

    assert batch(1) == batch(1)
    assert len({batch(1), batch(2), batch(1, 0, 2), batch(1, 1, 2)}) == 4


def test_rand_skip_passes_over_less_records_than_it_says_but_not_where_workers_share_them(tmp_path: Path) -> None:
    database = write_lmdb(tmp_path / "database", numbered(50))
    text = data(database).replace("batch_size", "rand_skip: 9 batch_size")
    starts = set()
    for seed in range(40):
        with layer(text, seed=seed) as source:
            read = labels(source, 1)
            assert read == list(range(read[0], read[0] + 4))
            starts.add(read[0])
    assert starts <= set(range(9))
    assert len(starts) > 5
    with layer(text) as source:
        source.shard(1, 2)
        assert labels(source, 1) == [1, 3, 5, 7]


def test_encoded_images_are_decoded_in_the_colors_asked_for(tmp_path: Path) -> None:
    rows = noise(1, 6, 5, 3)
    records = [(b"%d" % n, Datum(encoded=True, data=picture(rows), label=n).SerializeToString()) for n in range(9)]
    database = write_lmdb(tmp_path / "database", records)
    blue_first = rows[..., ::-1].transpose(2, 0, 1)
    for rest in ("", "transform_param { force_color: true }"):
        with layer(data(database, rest, batch_size=7)) as source:
            assert source.tops[0] == (7, 3, 6, 5)
            images, numbers = source.forward()
            assert np.array_equal(images, np.broadcast_to(blue_first, (7, 3, 6, 5)))
            assert numbers.tolist() == list(range(7))
    with layer(data(database, "transform_param { force_gray: true }")) as source:
        assert source.tops[0] == (4, 1, 6, 5)
        grey = rows @ np.array([0.299, 0.587, 0.114])
        assert np.abs(source.forward()[0][0, 0].numpy() - grey).max() <= 1


def test_numbers_that_are_no_bytes_are_read_too(tmp_path: Path) -> None:
    numbers = np.linspace(-1, 1, 12).astype(np.float32)
    datum = Datum(channels=3, height=2, width=2, float_data=numbers.tolist(), label=-5)
    database = write_lmdb(tmp_path / "database", [(b"0", datum.SerializeToString())])
    with layer(data(database)) as source:
        images, classes = source.forward()
        assert np.array_equal(images[3], numbers.reshape(3, 2, 2))
        assert classes.tolist() == [-5] * 4


def test_batches_may_differ_in_shape_but_not_the_images_of_one(tmp_path: Path) -> None:
    sizes = [2, 2, 3, 3, 2, 3]
    records = [(b"%d" % n, raw(noise(n, 1, size, size))) for n, size in enumerate(sizes)]
    database = write_lmdb(tmp_path / "database", records)
    with layer(data(database, batch_size=2)) as source:
        assert source.forward()[0].shape == (2, 1, 2, 2)
        assert source.forward()[0].shape == (2, 1, 3, 3)
        with pytest.raises(ModelError, match=rf"record 5 of {database}: an image of shape \[1, 3, 3\] is in one batch"):
            source.forward()


def test_a_missing_database_is_told_with_file_line_and_layer(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r'^net.prototxt:2: layer "in": there is no LMDB at .*nowhere; HINT'):
        with layer(data(tmp_path / "nowhere")):
            pass


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch_size: 0", "batch_size must be positive"),
        ("batch_size: 1 prefetch: 0", "prefetch must be positive"),
        ('batch_size: 1 } transform_param { mean_file: "nowhere"', "there is no mean_file nowhere"),
        ("batch_size: 1 } transform_param { crop_size: 3", "an image of 2 x 2 is smaller than crop_size: 3"),
        ("batch_size: 1 } transform_param { mean_value: 1 mean_value: 2", "1 channels has 2 mean_value"),
    ],
)
def test_what_is_wrong_is_told_when_the_net_is_made(text: str, message: str, tmp_path: Path) -> None:
    database = write_lmdb(tmp_path / "database", numbered(3))
    with pytest.raises(ModelError, match=f'^net.prototxt:2: layer "in": .*{message}'):
        with layer(data(database).replace("batch_size: 4", text)):
            pass


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b"\xff\xff", "is no Datum"),
        (
            Datum(channels=1, height=2, width=2, data=b"123").SerializeToString(),
            "has 3 numbers for an image of 1 x 2 x 2",
        ),
        (Datum(label=1).SerializeToString(), "has 0 numbers for an image of 0 x 0 x 0"),
        (Datum(encoded=True, data=b"no image").SerializeToString(), "cannot be decoded as an image"),
        (raw(noise(0, 3, 2, 2)), r"an image of shape \[3, 2, 2\] is in one batch with one of \[1, 2, 2\]"),
    ],
)
def test_a_bad_record_is_named_when_its_batch_is_asked_for_and_ever_after(
    record: bytes, message: str, tmp_path: Path
) -> None:
    records = numbered(8)
    records[6] = (records[6][0], record)
    with layer(data(write_lmdb(tmp_path / "database", records))) as source:
        assert labels(source, 1) == [0, 1, 2, 3]
        for _ in range(2):
            with pytest.raises(ModelError, match=f'layer "in": record 00000006 of .*database: {message}'):
                source.forward()


def test_a_bad_first_record_is_told_when_the_net_is_made(tmp_path: Path) -> None:
    database = write_lmdb(tmp_path / "database", [(b"first", b"\xff")])
    with pytest.raises(ModelError, match=r"record first of .*: is no Datum"):
        with layer(data(database)):
            pass


def test_a_closed_layer_has_no_batches(tmp_path: Path) -> None:
    database = write_lmdb(tmp_path / "database", numbered(3))
    with layer(data(database)) as source:
        source.forward()
        source.close()
        source.close()
        with pytest.raises(ValueError, match="'in' is closed"):
            source.forward()


def test_a_layer_that_nobody_closed_leaves_nothing_behind(tmp_path: Path) -> None:
    records = [(b"%d" % n, Datum(encoded=True, data=picture(noise(n, 5, 5))).SerializeToString()) for n in range(4)]
    database = write_lmdb(tmp_path / "database", records)
    with layer(data(database)) as source:
        source.forward()
        source.close = lambda: None  # what `with` would call
    del source


def test_a_process_ends_with_a_layer_that_is_loading(tmp_path: Path) -> None:
    records = [(b"%d" % n, Datum(encoded=True, data=picture(noise(n, 5, 5))).SerializeToString()) for n in range(4)]
    database = write_lmdb(tmp_path / "database", records)
    script = f"""
from modum.caffe.layers import make_layer
from modum.caffe.proto import LayerParameter
spec = LayerParameter(name="in", type="Data", top=["data"])
spec.data_param.source, spec.data_param.batch_size, spec.data_param.backend = {str(database)!r}, 2, 1
layer = make_layer(spec, 0)
layer.setup([])
print(layer.forward()[0].shape[0])
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "2\n", "")


def test_two_nets_read_one_database_at_once(tmp_path: Path) -> None:
    database = write_lmdb(tmp_path / "database", numbered(9))
    with layer(data(database), TRAIN) as train, layer(data(database), TEST) as test:
        assert labels(train, 2) == [0, 1, 2, 3, 4, 5, 6, 7]
        assert labels(test, 1) == [0, 1, 2, 3]
        assert labels(train, 1) == [8, 0, 1, 2]


def test_many_processes_read_one_database_that_they_may_not_write_to(tmp_path: Path) -> None:
    for backend, write in (("LMDB", write_lmdb), ("LEVELDB", write_leveldb)):
        database = write(tmp_path / backend, numbered(9))
        for file in database.iterdir():
            file.chmod(0o444)
        database.chmod(0o555)
        script = f"from modum.caffe.data import open_store; print(len(open_store({str(database)!r}, {backend!r})))"
        processes = [
            subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=os.environ)
            for _ in range(2)
        ]
        with layer(data(database, backend=backend)) as source:
            assert labels(source, 1) == [0, 1, 2, 3]
            assert [process.communicate(timeout=60)[0] for process in processes] == ["9\n", "9\n"]
        database.chmod(0o755)
