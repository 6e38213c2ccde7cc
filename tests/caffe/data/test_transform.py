"""`transform_param` against the formula, image by image and number by number."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from modum.caffe.data.transform import Transformer
from modum.caffe.proto import TEST, TRAIN, BlobProto, TransformationParameter
from modum.data import DataError
from tests.caffe.data.making import noise

MEAN = np.random.default_rng(7).uniform(0, 255, (3, 7, 9)).astype(np.float32)


@pytest.fixture(scope="module")
def mean_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("mean") / "mean.binaryproto"
    blob = BlobProto(num=1, channels=3, height=7, width=9, data=MEAN.reshape(-1).tolist())
    path.write_bytes(blob.SerializeToString())
    return str(path)


def name(index: int) -> str:
    return f"image {index}"


def plainly(
    image: NDArray[np.uint8],
    mean: NDArray[np.float32],
    scale: float,
    top: int,
    left: int,
    size: tuple[int, int],
    mirror: bool,
) -> NDArray[np.float32]:
    """The formula, one number after the other."""
    result = np.zeros((len(image), *size), np.float32)
    for c in range(len(image)):
        for y in range(size[0]):
            for x in range(size[1]):
                pixel = np.float32(image[c, top + y, left + x])
                column = size[1] - 1 - x if mirror else x
                result[c, y, column] = (pixel - mean[c, top + y, left + x]) * np.float32(scale)
    return result


def chances(mean: NDArray[np.float32], image: NDArray[np.uint8], crop: int, scale: float) -> list[NDArray[np.float32]]:
    """What every place of the crop, mirrored or not, would give."""
    return [
        plainly(image, mean, scale, top, left, (crop, crop), mirror)
        for top in range(image.shape[1] - crop + 1)
        for left in range(image.shape[2] - crop + 1)
        for mirror in (False, True)
    ]


@pytest.mark.parametrize("means", [[], [104.0], [104.5, 117.25, 123.0], None], ids=["none", "one", "each", "file"])
@pytest.mark.parametrize("crop", [0, 4])
def test_a_test_image_is_cut_in_the_middle_less_the_mean_times_the_scale(
    means: list[float] | None, crop: int, mean_file: str
) -> None:
    param = TransformationParameter(scale=0.0125, crop_size=crop)
    mean = MEAN
    if means is None:
        param.mean_file = mean_file
    else:
        param.mean_value.extend(means)
        values = np.array(means * 3 if len(means) == 1 else means or [0] * 3, np.float32)
        mean = np.broadcast_to(values[:, None, None], (3, 7, 9))
    images = noise(1, 5, 3, 7, 9)
    transformer = Transformer(param, TEST)
    random = np.random.default_rng(0)
    top, left, size = (1, 2, (4, 4)) if crop else (0, 0, (7, 9))
    expected = [plainly(image, mean, 0.0125, top, left, size, False) for image in images]
    for given_as in (images, list(images)):
        assert np.array_equal(transformer(given_as, random, name), expected)
    assert transformer.shape((3, 7, 9)) == (3, *size)
    assert not transformer.needs_random


def test_training_images_are_cut_anywhere_and_mirrored_half_of_the_time(mean_file: str) -> None:
    image = noise(2, 3, 7, 9)
    transformer = Transformer(TransformationParameter(crop_size=6, mirror=True, mean_file=mean_file, scale=0.5), TRAIN)
    possible = [chance.tobytes() for chance in chances(MEAN, image, 6, 0.5)]
    drawn = transformer(np.stack([image] * 800), np.random.default_rng(3), name)
    counts = np.bincount([possible.index(row.tobytes()) for row in drawn], minlength=len(possible))
    assert len(possible) == 16
    assert counts.min() >= 25  # of 50 expected
    assert abs(counts[::2].sum() - 400) < 80


def test_images_are_mirrored_at_random_in_tests_too_but_cut_in_the_middle() -> None:
    image = noise(3, 1, 6, 6)
    drawn = Transformer(TransformationParameter(crop_size=4, mirror=True), TEST)(
        [image] * 50, np.random.default_rng(0), name
    )
    middle = image[:, 1:5, 1:5].astype(np.float32)
    mirrored = [np.array_equal(row, middle[..., ::-1]) for row in drawn]
    assert [np.array_equal(row, middle) for row in drawn] == [not is_so for is_so in mirrored]
    assert 10 < sum(mirrored) < 40


@given(st.integers(0, 2**32), st.booleans(), st.sampled_from([0, 3]))
def test_equal_seeds_give_equal_batches(seed: int, mirror: bool, crop: int) -> None:
    transformer = Transformer(TransformationParameter(crop_size=crop, mirror=mirror), TRAIN)
    images = noise(4, 6, 1, 5, 5)
    first, second = (transformer(images, np.random.default_rng(seed), name) for _ in range(2))
    assert np.array_equal(first, second)


def test_numbers_that_are_no_bytes_are_transformed_alike() -> None:
    image = np.random.default_rng(5).normal(size=(2, 3, 3)).astype(np.float32)
    result = Transformer(TransformationParameter(scale=3, mean_value=[0.5]), TEST)(
        [image], np.random.default_rng(), name
    )
    assert np.array_equal(result[0], (image - np.float32(0.5)) * np.float32(3))


def test_images_of_different_sizes_become_one_batch_if_they_are_cut() -> None:
    images = [noise(6, 3, 5, 8), noise(7, 3, 9, 4)]
    result = Transformer(TransformationParameter(crop_size=3), TEST)(images, np.random.default_rng(), name)
    assert np.array_equal(result[0], images[0][:, 1:4, 2:5])
    assert np.array_equal(result[1], images[1][:, 3:6, 0:3])
    with pytest.raises(
        DataError, match=r"image 1: an image of shape \[3, 9, 4\] is in one batch with one of \[3, 5, 8\]"
    ):
        Transformer(TransformationParameter(), TEST)(images, np.random.default_rng(), name)


def test_images_that_do_not_fit_are_named(mean_file: str) -> None:
    random = np.random.default_rng()
    with pytest.raises(DataError, match="image 1: an image of 3 x 9 is smaller than crop_size: 4"):
        Transformer(TransformationParameter(crop_size=4), TEST)([noise(1, 1, 9, 9), noise(1, 1, 3, 9)], random, name)
    with pytest.raises(DataError, match=r"image 0: an image of shape \[3, 8, 9\] has a mean_file of shape \[3, 7, 9\]"):
        Transformer(TransformationParameter(mean_file=mean_file), TEST)(noise(1, 1, 3, 8, 9), random, name)
    with pytest.raises(DataError, match="an image of 3 channels has 2 mean_value"):
        Transformer(TransformationParameter(mean_value=[1, 2]), TEST)(noise(1, 1, 3, 8, 9), random, name)


def test_settings_that_contradict_each_other_are_refused(mean_file: str) -> None:
    with pytest.raises(ValueError, match="mean_file and mean_value exclude each other"):
        Transformer(TransformationParameter(mean_file=mean_file, mean_value=[1]), TEST)
    with pytest.raises(ValueError, match="force_color and force_gray exclude each other"):
        Transformer(TransformationParameter(force_color=True, force_gray=True), TEST)


def test_a_missing_mean_file_is_told_with_what_makes_it(tmp_path: Path) -> None:
    path = tmp_path / "mean.binaryproto"
    with pytest.raises(
        DataError, match=f"there is no mean_file {path}; HINT: modum caffe convert mean DATABASE {path}"
    ):
        Transformer(TransformationParameter(mean_file=str(path)), TEST)
