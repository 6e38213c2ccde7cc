"""Images: decoded and resized as OpenCV does, which Caffe uses."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from modum.caffe.data.pictures import decode, encode, read, resize
from modum.data import DataError
from tests.caffe.data.making import noise, picture

COLOR = noise(1, 24, 31, 3)
GREY = noise(2, 24, 31)


def smooth(*size: int) -> NDArray[np.uint8]:
    """A color image without sharp edges, which JPEG keeps well."""
    y, x = np.mgrid[: size[0], : size[1]]
    return np.stack([127 + 120 * np.sin((x * a + y) / 20) for a in (1, 2, 3)], 2).astype(np.uint8)


def by_opencv(content: bytes, flag: int) -> NDArray[np.uint8]:
    image = cv2.imdecode(np.frombuffer(content, np.uint8), flag)
    assert image is not None
    rows = image.astype(np.uint8)
    return rows[np.newaxis] if rows.ndim == 2 else rows.transpose(2, 0, 1)


@pytest.mark.parametrize("rows", [COLOR, GREY], ids=["color", "grey"])
@pytest.mark.parametrize(
    ("color", "flag"), [(True, cv2.IMREAD_COLOR), (False, cv2.IMREAD_GRAYSCALE), (None, cv2.IMREAD_UNCHANGED)]
)
def test_lossless_images_are_decoded_as_opencv_does(rows: NDArray[np.uint8], color: bool | None, flag: int) -> None:
    content = picture(rows)
    ours, theirs = decode(content, color), by_opencv(content, flag)
    assert ours.dtype == np.uint8
    assert ours.shape == theirs.shape
    rounding = 1 if color is False and rows.ndim == 3 else 0
    assert np.abs(ours.astype(int) - theirs).max() <= rounding


@pytest.mark.parametrize(("color", "flag"), [(True, cv2.IMREAD_COLOR), (False, cv2.IMREAD_GRAYSCALE)])
def test_jpegs_are_decoded_as_opencv_does(color: bool, flag: int) -> None:
    content = picture(smooth(48, 64), "JPEG")
    ours, theirs = decode(content, color), by_opencv(content, flag)
    assert ours.shape == theirs.shape
    assert np.abs(ours.astype(int) - theirs).max() <= 4


def test_transparency_is_a_fourth_channel_unless_three_are_asked_for() -> None:
    content = picture(noise(3, 5, 6, 4))
    assert decode(content, None).shape == (4, 5, 6)
    assert np.array_equal(decode(content, None), by_opencv(content, cv2.IMREAD_UNCHANGED))
    assert decode(content, True).shape == (3, 5, 6)


def test_images_with_a_palette_are_color_images() -> None:
    stream = io.BytesIO()
    Image.fromarray(COLOR).quantize(16).save(stream, "PNG")
    assert np.array_equal(decode(stream.getvalue(), None), by_opencv(stream.getvalue(), cv2.IMREAD_COLOR))


def test_the_upper_bits_of_deep_images_are_kept() -> None:
    deep = np.random.default_rng(0).integers(0, 1 << 16, (5, 6), dtype=np.uint16)
    assert np.array_equal(decode(picture(deep), False)[0], deep >> 8)  # type: ignore[arg-type]  # 16 bits


def test_what_is_encoded_is_decoded_again() -> None:
    for image in (noise(4, 1, 7, 9), noise(5, 3, 7, 9)):
        assert np.array_equal(decode(encode(image), None), image)


@given(st.tuples(*[st.integers(1, 40)] * 4), st.sampled_from([1, 3]))
def test_resizing_is_opencvs_bilinear_interpolation(sizes: tuple[int, int, int, int], channels: int) -> None:
    height, width, new_height, new_width = sizes
    image = noise(sum(sizes), channels, height, width)
    ours = resize(image, (new_height, new_width))
    theirs = cv2.resize(image.transpose(1, 2, 0), (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    theirs = theirs.reshape(new_height, new_width, channels).transpose(2, 0, 1)
    assert ours.shape == theirs.shape
    assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.png cannot be read: No such file"):
        read(tmp_path / "nowhere.png", True)
    broken = tmp_path / "broken.png"
    for content in (b"", b"no image", picture(COLOR)[:300]):
        broken.write_bytes(content)
        with pytest.raises(DataError, match=r"broken.png cannot be decoded as an image"):
            read(broken, True)
