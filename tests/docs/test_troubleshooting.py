"""The messages that docs/troubleshooting.md explains are those of the code."""

import ast
import re
from pathlib import Path

import pytest
from tests.docs.scripts import ROOT

PAGE = ROOT / "docs" / "troubleshooting.md"
VARIES = "\0"


def messages() -> list[str]:
    """Return what the first column of the tables quotes."""
    cells = [line.split(" | ")[0] for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    return [cell.removeprefix("| `").removesuffix("`").replace("``", "`") for cell in cells]


def texts(folder: Path) -> list[str]:
    """Return the strings of the code, with a mark where something is filled in."""
    found = []
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else VARIES for part in node.values]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


TEXTS = texts(ROOT / "src" / "modum")


@pytest.mark.parametrize("message", messages())
def test_a_message_that_is_explained_is_in_the_code(message: str) -> None:
    # what varies may be filled in there, or be a literal "..."
    pattern = re.compile(".*".join(map(re.escape, message.split("..."))), re.DOTALL)
    assert any(pattern.search(text) for text in TEXTS)


def test_there_are_messages() -> None:
    assert len(messages()) > 40
