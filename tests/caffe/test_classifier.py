"""Classifying pictures and windows of them, by a net that adds up what it sees."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import modum.caffe as caffe

SUMS = """
input: "data" input_shape { dim: 4 dim: 3 dim: 4 dim: 4 }
layer { name: "sum" type: "InnerProduct" bottom: "data" top: "sum"
  inner_product_param { num_output: 2 bias_term: false } }
"""


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A net whose outputs are the mean of its input, and minus that."""
    model, weights = tmp_path / "deploy.prototxt", tmp_path / "net.caffemodel"
    model.write_text(SUMS)
    net = caffe.Net(model, caffe.TEST)
    net.params["sum"][0].data[...] = np.array([[1.0], [-1.0]]) / 48
    net.save(weights)
    return model, weights


def test_a_picture_is_seen_in_ten_crops_or_in_its_middle(files: tuple[Path, Path]) -> None:
    classifier = caffe.Classifier(*files, image_dims=(6, 6), mean=np.array([1.0, 2.0, 3.0]), raw_scale=10)
    image = np.random.default_rng(0).random((6, 6, 3), np.float32)
    found = classifier.predict([image, image * 2, image, image, image], oversample=False)
    middle = 10 * image[1:5, 1:5].mean() - 2
    assert found.shape == (5, 2)  # more than the net's batch, and not a multiple of it
    np.testing.assert_allclose(found[0], [middle, -middle], rtol=1e-5)
    np.testing.assert_allclose(found[1, 0], 2 * middle + 2, rtol=1e-5)
    crops = [image[y : y + 4, x : x + 4].mean() for y, x in ((0, 0), (0, 2), (2, 0), (2, 2), (1, 1))]
    mean = 10 * np.mean(crops) - 2
    np.testing.assert_allclose(classifier.predict([image]), [[mean, -mean]], rtol=1e-5)


def test_windows_are_seen_with_what_lies_around_them(files: tuple[Path, Path], tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[2:4, 2:4] = 255
    Image.fromarray(pixels).save(name := str(tmp_path / "square.png"))
    detector = caffe.Detector(*files)
    found = detector.detect_windows([(name, [(2, 2, 4, 4), (0, 0, 4, 4)])])
    assert [one["filename"] for one in found] == [name, name]
    np.testing.assert_allclose([one["prediction"][0] for one in found], [1, 0.25], atol=1e-6)
    around = caffe.Detector(*files, context_pad=1, mean=np.full(3, 0.5), raw_scale=1)
    (padded,) = around.detect_windows([(name, [(0, 0, 3, 3)])])
    assert around.crop(np.ones((8, 8, 3), np.float32), np.array([0, 0, 3, 3]))[0, 0, 0] == 0.5  # beyond the picture
    assert -0.5 < padded["prediction"][0] < 0.5
