"""ImageData: files of a list, in its order or a new one each round."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modum.caffe.data.images import read_image_list
from modum.caffe.errors import ModelError
from modum.data import DataError
from tests.caffe.data.making import labels, layer, noise, quote


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A list of nine images of 4 x 6, the red of each its label; their paths begin at the list's folder."""
    lines = []
    (tmp_path / "a folder").mkdir()
    for number in range(9):
        rows = noise(number, 4, 6, 3)
        rows[..., 0] = number
        Image.fromarray(rows).save(tmp_path / "a folder" / f"{number}.png")
        lines.append(f"a folder/{number}.png {number}\n")
    (tmp_path / "list.txt").write_text("".join(lines))
    return tmp_path / "list.txt"


def image_data(photos: Path, more: str = "", rest: str = "", batch_size: int = 3) -> str:
    return f"""type: "ImageData" top: "data" top: "label" image_data_param {{ source: {quote(photos)}
        root_folder: "{photos.parent}/" batch_size: {batch_size} {more} }} {rest}"""


def test_images_come_in_the_order_of_the_list_and_again(photos: Path) -> None:
    with layer(image_data(photos, batch_size=5)) as source:
        assert source.tops == [(5, 3, 4, 6), (5,)]
        for first in (0, 5, 1):
            images, numbers = source.forward()
            expected = np.arange(first, first + 5) % 9
            assert np.array_equal(numbers, expected)
            assert np.array_equal(images[:, 2], np.broadcast_to(expected[:, None, None], (5, 4, 6)))
            blue = noise(int(expected[0]), 4, 6, 3)[..., 2]
            assert np.array_equal(images[0, 0], blue)


def test_images_are_resized_made_grey_and_transformed(photos: Path) -> None:
    text = image_data(
        photos, "new_height: 8 new_width: 10 is_color: false", "transform_param { scale: 0.5 crop_size: 7 }"
    )
    with layer(text) as source:
        assert source.tops[0] == (3, 1, 7, 7)
        images, _ = source.forward()
        assert images.shape == (3, 1, 7, 7)
        assert 0 < float(images.max()) <= 127.5


def test_shuffled_images_come_once_a_round_in_another_order_each_time(photos: Path) -> None:
    with layer(image_data(photos, "shuffle: true")) as source:
        rounds = [labels(source, 3) for _ in range(4)]
    assert all(sorted(order) == list(range(9)) for order in rounds)
    assert len({tuple(order) for order in rounds}) == 4


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_with_different_seeds_of_their_own_share_a_shuffled_round(workers: int, photos: Path) -> None:
    read = []
    for worker in range(workers):
        with layer(image_data(photos, "shuffle: true", batch_size=1), seed=worker) as source:
            source.shard(worker, workers, seed=5)
            read.append(labels(source, 18))
    in_turn = [number for turn in zip(*read, strict=True) for number in turn]
    for start in range(0, len(in_turn), 9):
        assert Counter(in_turn[start : start + 9]) == Counter(range(9))
    assert in_turn[:9] != in_turn[9:18]


def test_rand_skip_begins_inside_of_the_list(photos: Path) -> None:
    starts = set()
    for seed in range(20):
        with layer(image_data(photos, "rand_skip: 4"), seed=seed) as source:
            starts.add(labels(source, 1)[0])
    assert starts <= {0, 1, 2, 3}
    assert len(starts) > 2
    with pytest.raises(ModelError, match="rand_skip: 9 must be less than the 9 images"):
        with layer(image_data(photos, "rand_skip: 9")):
            pass


def test_an_image_that_is_gone_is_named(photos: Path) -> None:
    (photos.parent / "a folder" / "4.png").unlink()
    with layer(image_data(photos)) as source:
        assert labels(source, 1) == [0, 1, 2]
        with pytest.raises(ModelError, match=r'^net.prototxt:2: layer "in": .*a folder/4.png cannot be read: No such'):
            source.forward()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("a.png 1\n\nb.png one\n", r"list.txt:3: 'b.png one' is not a path, a space and a whole number"),
        ("7\n", r"list.txt:1: '7' has no path before its label"),
    ],
)
def test_lists_that_are_none_are_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(content)
    with pytest.raises(DataError, match=message):
        read_image_list(tmp_path / "list.txt")


def test_settings_that_do_not_go_are_refused(photos: Path) -> None:
    for more, message in (
        ("new_height: 5", "new_height and new_width must be set together"),
        ("batch_size: 0", "batch_size must be positive"),
    ):
        with pytest.raises(ModelError, match=message):
            with layer(image_data(photos).replace("batch_size: 3", more)):
                pass
    with pytest.raises(ModelError, match=r"the list of images .*nowhere cannot be read"):
        with layer(image_data(photos).replace("list.txt", "nowhere")):
            pass
