"""What `make fuzz` begins with, and what it has found: every target takes it."""

import importlib
from pathlib import Path

import pytest

CORPUS = Path(__file__).parent / "corpus"


def inputs() -> list[object]:
    """Return the files of the corpus."""
    return [pytest.param(path, id=path.relative_to(CORPUS).as_posix()) for path in sorted(CORPUS.glob("*/*"))]


@pytest.mark.parametrize("path", inputs())
@pytest.mark.filterwarnings("ignore")
def test_a_reader_takes_what_strangers_send(path: Path) -> None:
    importlib.import_module(f"tests.fuzz.{path.parent.name}").take(path.read_bytes())
