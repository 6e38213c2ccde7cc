"""Images and messages, as scripts for pycaffe prepare them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modum.caffe import io


def picture() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def test_a_picture_is_loaded_as_floats_in_the_order_of_its_file(tmp_path: Path) -> None:
    Image.fromarray(picture()).save(tmp_path / "color.png")
    np.testing.assert_array_equal(io.load_image(tmp_path / "color.png"), np.float32(picture()) / np.float32(255))
    grey = io.load_image(tmp_path / "color.png", color=False)
    assert grey.shape == (5, 7, 1)
    red, green, blue = picture()[2, 3] / 255
    assert grey[2, 3, 0] == pytest.approx(0.2125 * red + 0.7154 * green + 0.0721 * blue)


def test_a_grey_picture_has_one_channel_or_three_alike(tmp_path: Path) -> None:
    Image.fromarray(picture()[:, :, 0]).save(tmp_path / "grey.png")
    assert io.load_image(tmp_path / "grey.png", color=False).shape == (5, 7, 1)
    np.testing.assert_array_equal(io.load_image(tmp_path / "grey.png")[:, :, 2], picture()[:, :, 0] / np.float32(255))
    deep = (picture()[:, :, 0].astype(np.uint16) * 257).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_allclose(io.load_image(tmp_path / "deep.png")[:, :, 0], picture()[:, :, 0] / 255, rtol=1e-6)


def test_resizing_interpolates_between_the_middles_of_pixels() -> None:
    image = np.array([[0.0, 1.0]], np.float32)[:, :, None]
    assert io.resize_image(image, (1, 4))[0, :, 0].tolist() == [0, 0.25, 0.75, 1]
    assert io.resize_image(image, (1, 4), interp_order=0)[0, :, 0].tolist() == [0, 0, 1, 1]
    with pytest.raises(ValueError, match=r"interp_order \(2\)"):
        io.resize_image(image, (1, 4), interp_order=2)


def test_ten_crops_are_the_corners_the_middle_and_their_mirror_images() -> None:
    image = np.arange(4 * 6, dtype=np.float32).reshape(4, 6, 1)
    crops = io.oversample([image], (2, 2))
    assert crops.shape == (10, 2, 2, 1)
    assert [int(crop[0, 0, 0]) for crop in crops[:5]] == [0, 4, 12, 16, 8]
    np.testing.assert_array_equal(crops[5:], crops[:5, :, ::-1])


def test_a_transformer_makes_what_a_net_wants_and_back() -> None:
    mean = np.array([104.0, 117.0, 123.0])
    transformer = io.Transformer({"data": (1, 3, 5, 7)})
    transformer.set_transpose("data", (2, 0, 1))
    transformer.set_channel_swap("data", (2, 1, 0))
    transformer.set_raw_scale("data", 255)
    transformer.set_mean("data", mean)
    transformer.set_input_scale("data", 0.5)
    image = picture().astype(np.float32) / 255
    wanted = (picture()[:, :, ::-1].astype(float) - mean).transpose(2, 0, 1) / 2
    found = transformer.preprocess("data", image)
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    np.testing.assert_allclose(transformer.deprocess("data", found[None]), image, atol=1e-6)
    assert transformer.preprocess("data", np.ones((50, 50, 3))).shape == (3, 5, 7)
    transformer.set_mean("data", np.ones((3, 10, 14)))
    assert transformer.mean["data"].shape == (3, 5, 7)


def test_a_transformer_tells_what_does_not_fit() -> None:
    transformer = io.Transformer({"data": (1, 3, 5, 7)})
    with pytest.raises(ValueError, match=r"'dta' is not one of the inputs \['data'\]"):
        transformer.preprocess("dta", np.zeros((5, 7, 3)))
    with pytest.raises(ValueError, match="one number for each of 3 channels"):
        transformer.set_channel_swap("data", (1, 0))
    with pytest.raises(ValueError, match=r"a mean of shape \(2, 1, 1\) does not fit"):
        transformer.set_mean("data", np.zeros(2))


def test_arrays_become_blobs_and_come_back() -> None:
    array, diff = np.random.default_rng(0).random((2, 2, 3), np.float32)
    blob = io.array_to_blobproto(array, diff)
    np.testing.assert_array_equal(io.blobproto_to_array(blob), array)
    np.testing.assert_array_equal(io.blobproto_to_array(blob, return_diff=True), diff)
    some = io.blobprotovector_str_to_arraylist(io.arraylist_to_blobprotovector_str([array, diff[0]]))
    np.testing.assert_array_equal(some[1], diff[0])


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_arrays_become_records_and_come_back(kind: type[np.generic]) -> None:
    array = picture().transpose(2, 0, 1).astype(kind)
    datum = io.array_to_datum(array, 7)
    assert datum.label == 7
    np.testing.assert_array_equal(io.datum_to_array(datum), array)
    with pytest.raises(ValueError, match=r"not an array of shape \(2,\)"):
        io.array_to_datum(np.zeros(2, np.uint8))
