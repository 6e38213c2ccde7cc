"""The Python of the README and of docs/, cut into the scripts that a reader would paste into files.

A block that begins with an import is a script of its own; other blocks go on from the one above.
"""

from dataclasses import dataclass
from pathlib import Path

from sybil import Sybil
from sybil.parsers.markdown import CodeBlockParser

ROOT = Path(__file__).parents[2]
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))


@dataclass(frozen=True)
class Script:
    """Blocks of one document that belong together."""

    document: Path
    line: int
    """Where the first block begins in the document."""
    text: str
    """As a file whose lines have the numbers that they have in the document."""

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def blocks(document: Path, language: str) -> list[tuple[int, str]]:
    """Return line and text of the fenced blocks in a language."""
    parser = CodeBlockParser(language=language, evaluator=lambda example: None)
    examples = Sybil(parsers=[parser]).parse(document)
    return [(example.line + example.parsed.line_offset + 1, str(example.parsed)) for example in examples]


def scripts(document: Path) -> list[Script]:
    """Return the scripts of a document."""
    found: list[Script] = []
    for line, text in blocks(document, "python"):
        if text.startswith(("import ", "from ")):
            found.append(Script(document, line, "\n" * (line - 1) + text))
        else:
            before = found.pop()
            missing = line - 1 - before.text.count("\n")
            found.append(Script(document, before.line, before.text + "\n" * missing + text))
    return found
