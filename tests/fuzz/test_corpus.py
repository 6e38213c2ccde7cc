"""What `make fuzz` begins with, and what it has found: every target takes it."""

import importlib
from pathlib import Path

import pytest

CORPUS = Path(__file__).parent / "corpus"

# What is not mended yet.
OPEN = {
    # FAULT: from_blob in caffe/arrays.py trusts that extents are not negative and that their product has 64 bits
    "weights/negative-extent": "ValueError of NumPy's from read_weights, instead of a CaffeError that names the file",
    "weights/product-beyond-64-bits": "likewise",
}


def inputs() -> list[object]:
    """Return the files of the corpus, with marks for those which a target does not take yet."""
    return [
        pytest.param(path, id=name, marks=[pytest.mark.xfail(strict=True, reason=OPEN[name])] if name in OPEN else [])
        for path in sorted(CORPUS.glob("*/*"))
        for name in [path.relative_to(CORPUS).as_posix()]
    ]


@pytest.mark.parametrize("path", inputs())
@pytest.mark.filterwarnings("ignore")
def test_a_reader_takes_what_strangers_send(path: Path) -> None:
    importlib.import_module(f"tests.fuzz.{path.parent.name}").take(path.read_bytes())
