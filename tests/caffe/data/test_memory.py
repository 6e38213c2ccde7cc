"""MemoryData, DummyData and Input: what the program or a filler gives."""

import numpy as np
import pytest
import torch

from modum.caffe.errors import ModelError
from modum.data import DataError
from tests.caffe.data.making import layer, noise

MEMORY = (
    'type: "MemoryData" top: "data" top: "label" memory_data_param { batch_size: 2 channels: 3 height: 4 width: 5 }'
)


def test_given_rows_come_batch_by_batch_and_again() -> None:
    data, labels = np.random.default_rng(0).normal(size=(6, 3, 4, 5)).astype(np.float32), np.arange(6.0)
    with layer(MEMORY) as source:
        assert source.tops == [(2, 3, 4, 5), (2,)]
        with pytest.raises(ModelError, match=r'net.prototxt:2: layer "in": has no data yet: give .* set_input_arrays'):
            source.forward()
        source.set_input_arrays(data, labels.reshape(6, 1, 1, 1))
        for first in (0, 2, 4, 0):
            images, numbers = source.forward()
            assert np.array_equal(images, data[first : first + 2])
            assert numbers.tolist() == [first, first + 1]
        source.rewind()
        assert source.forward()[1].tolist() == [0, 1]
        source.set_input_arrays(data[:2], [7, 8])
        assert source.forward()[1].tolist() == [7, 8]


def test_arrays_of_single_precision_are_not_copied() -> None:
    data = np.zeros((2, 3, 4, 5), np.float32)
    with layer(MEMORY) as source:
        source.set_input_arrays(data, [0, 0])
        data[...] = 3
        assert source.forward()[0].unique().tolist() == [3]


def test_added_images_are_transformed() -> None:
    images = noise(0, 4, 3, 6, 7)
    with layer(
        MEMORY.replace("width: 5", "width: 4") + " transform_param { crop_size: 4 scale: 2 mean_value: 1 }", phase=1
    ) as source:
        source.add(images, [1, 2, 3, 4])
        first, numbers = source.forward()
        assert np.array_equal(first, (images[:2, :, 1:5, 1:5].astype(np.float32) - 1) * 2)
        assert numbers.tolist() == [1, 2]
        with pytest.raises(DataError, match="image 0: an image of 3 x 7 is smaller"):
            source.add(images[:, :, :3], [1, 2, 3, 4])


def test_rows_that_do_not_fit_are_refused() -> None:
    with layer(MEMORY) as source:
        for shape, labels, message in (
            ((2, 3, 5, 4), 2, r"takes data of shape \[rows, 3, 4, 5\], not \(2, 3, 5, 4\)"),
            ((3, 3, 4, 5), 3, "3 rows are no multiple of the batch size 2"),
            ((0, 3, 4, 5), 0, "0 rows are no multiple of the batch size 2"),
            ((2, 3, 4, 5), 3, "there are 3 labels for 2 rows"),
        ):
            with pytest.raises(ValueError, match=message):
                source.set_input_arrays(np.zeros(shape), np.zeros(labels))
    with pytest.raises(ModelError, match="batch_size, channels, height and width must be set and positive"):
        with layer(MEMORY.replace("height: 4", "")):
            pass


def dummy(param: str, tops: int = 2) -> str:
    return 'type: "DummyData" ' + " ".join(f'top: "{n}"' for n in range(tops)) + f" dummy_data_param {{ {param} }}"


def test_constant_blobs_are_filled_once_and_random_ones_for_every_batch() -> None:
    param = """shape { dim: 2 dim: 3 } shape { dim: 4 }
        data_filler { type: "constant" value: 7 } data_filler { type: "gaussian" std: 2 }"""
    with layer(dummy(param)) as source:
        assert source.tops == source.reshape([]) == [(2, 3), (4,)]
        first, second = source.forward(), source.forward()
        assert first[0].unique().tolist() == [7]
        assert first[0] is second[0]
        assert not torch.equal(first[1], second[1])
        source.rewind()
        assert torch.equal(source.forward()[1], first[1])


def test_one_shape_and_one_filler_are_for_all_tops_and_zeros_are_the_default() -> None:
    with layer(dummy("shape { dim: 3 }")) as source:
        assert [top.tolist() for top in source.forward()] == [[0, 0, 0]] * 2
    with layer(dummy('shape { dim: 3 } data_filler { type: "uniform" min: 1 max: 2 }')) as source:
        assert all(1 <= number <= 2 for top in source.forward() for number in top.tolist())


def test_old_files_give_four_dimensions_one_for_all_or_one_each() -> None:
    with layer(dummy("num: 2 num: 3 channels: 4 height: 5 width: 6 width: 7")) as source:
        assert source.tops == [(2, 4, 5, 6), (3, 4, 5, 7)]
        assert [tuple(top.shape) for top in source.forward()] == source.tops


def test_the_seed_and_the_worker_decide_on_random_numbers() -> None:
    text = dummy('shape { dim: 5 } data_filler { type: "gaussian" }', 1)

    def numbers(seed: int, worker: int = 0, workers: int = 1) -> tuple[float, ...]:
        with layer(text, seed=seed) as source:
            source.shard(worker, workers)
            return tuple(source.forward()[0].tolist())

    assert numbers(1) == numbers(1)
    assert len({numbers(1), numbers(2), numbers(1, 0, 2), numbers(1, 1, 2)}) == 4


@pytest.mark.parametrize(
    ("param", "message"),
    [
        ("", "0 shape for 2 tops: say one for all or one each"),
        ("shape { dim: 1 } shape { dim: 1 } shape { dim: 1 }", "3 shape for 2 tops"),
        ("shape { dim: 1 } num: 1 channels: 1 height: 1 width: 1", "exclude shape"),
        ("num: 1 channels: 1 height: 1", "0 width for 2 tops"),
        ("shape { dim: 1 } data_filler {} data_filler {} data_filler {}", "3 data_filler for 2 tops"),
    ],
)
def test_dummy_data_that_does_not_add_up_is_refused(param: str, message: str) -> None:
    with pytest.raises(ModelError, match=f'^net.prototxt:2: layer "in": dummy_data_param: .*{message}'):
        with layer(dummy(param)):
            pass


def test_an_input_has_the_shapes_that_it_says() -> None:
    text = 'type: "Input" top: "a" top: "b" input_param { shape { dim: 2 dim: 3 } shape { dim: 4 } }'
    with layer(text) as source:
        assert source.tops == [(2, 3), (4,)]
        assert [tuple(top.shape) for top in source.forward()] == source.tops
    with pytest.raises(ModelError, match="input_param: 2 shape for 3 tops"):
        with layer(text.replace('top: "a"', 'top: "a" top: "c"')):
            pass
