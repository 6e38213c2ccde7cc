"""Fashion-MNIST: 70,000 grey pictures of clothes in ten classes (Xiao, Rasul and Vollgraf 2017)."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modum.data.directory import default_directory
from modum.data.idx import parse_idx
from modum.data.sources import DataSet, DebianPackage, Directory, Site

__all__ = ["FASHION_MNIST", "Images", "fashion_mnist"]

_INSTALLED = Path("/usr/share/datasets/fashion-mnist")

FASHION_MNIST = DataSet(
    title="Fashion-MNIST",
    files={
        "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
    sources=(
        Directory(_INSTALLED),
        DebianPackage("dataset-fashion-mnist", _INSTALLED),
        Site("https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/"),
        Site("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"),
    ),
    advice="Install Debian's dataset-fashion-mnist, or put the four .gz files of "
    "https://github.com/zalandoresearch/fashion-mnist into {directory}.",
)


@dataclass(frozen=True)
class Images:
    """A labelled set of grey images, split for training and for testing."""

    train_images: NDArray[np.uint8]
    """[training samples, height, width], 0 (background) to 255."""
    train_labels: NDArray[np.int64]
    """[training samples], class numbers."""
    test_images: NDArray[np.uint8]
    """[test samples, height, width]."""
    test_labels: NDArray[np.int64]
    """[test samples]."""


def fashion_mnist(directory: str | os.PathLike[str] | None = None) -> Images:
    """Return all of Fashion-MNIST, downloading its files if they are missing or damaged.

    They come from Debian's `dataset-fashion-mnist` if that is installed, else from that package without installing
    it, else from the data set's own site. Contents are checked against SHA-256 sums.

    Args:
        directory: where to keep the four published files; None: `default_directory("fashion-mnist")`.

    Returns:
        60,000 training and 10,000 test images of 28 x 28, labels 0 to 9.

    Raises:
        DataError: no source works; the message has the reason for each.
    """
    contents = FASHION_MNIST.load(default_directory("fashion-mnist") if directory is None else Path(directory))
    return Images(
        train_images=parse_idx(contents["train-images-idx3-ubyte.gz"], (60_000, 28, 28)),
        train_labels=parse_idx(contents["train-labels-idx1-ubyte.gz"], (60_000,)).astype(np.int64),
        test_images=parse_idx(contents["t10k-images-idx3-ubyte.gz"], (10_000, 28, 28)),
        test_labels=parse_idx(contents["t10k-labels-idx1-ubyte.gz"], (10_000,)).astype(np.int64),
    )
