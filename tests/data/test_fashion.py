"""The real Fashion-MNIST."""

import numpy as np
import pytest

from modum.data import DataError, default_directory, fashion_mnist


def test_fashion_mnist_is_whole_and_balanced() -> None:
    try:
        images = fashion_mnist()
    except DataError as error:
        pytest.skip(f"no source of Fashion-MNIST is within reach: {error}")
    assert images.train_images.shape == (60_000, 28, 28)
    assert images.test_images.shape == (10_000, 28, 28)
    assert images.train_images.dtype == images.test_images.dtype == np.uint8
    assert images.train_labels.dtype == images.test_labels.dtype == np.int64
    assert np.bincount(images.train_labels).tolist() == [6_000] * 10
    assert np.bincount(images.test_labels).tolist() == [1_000] * 10
    # The authors give 0.2860 and 0.3530 as the mean and standard deviation of the training images.
    assert images.train_images.mean() / 255 == pytest.approx(0.2860, abs=5e-5)
    assert images.train_images.std() / 255 == pytest.approx(0.3530, abs=5e-5)


def test_the_default_directory_follows_the_xdg_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert str(default_directory("fashion-mnist")) == "/somewhere/modum/fashion-mnist"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert str(default_directory("fashion-mnist")) == "/home/somebody/.cache/modum/fashion-mnist"
