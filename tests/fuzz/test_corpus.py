"""What `make fuzz` begins with, and what it has found: every target takes it."""

import importlib
from pathlib import Path

import pytest

CORPUS = Path(__file__).parent / "corpus"


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*/*")), ids=lambda path: f"{path.parent.name}-{path.name}")
@pytest.mark.filterwarnings("ignore")
def test_a_reader_takes_what_strangers_send(path: Path) -> None:
    importlib.import_module(f"tests.fuzz.{path.parent.name}").take(path.read_bytes())
