"""The outline of a text in protobuf's text format: the place of each field.

protobuf's own reader gives only the line of the first error. The outline has the line of every field, without a schema.
"""

import re
from dataclasses import dataclass, field

__all__ = ["Entry", "OutlineError", "outline"]

_SPACE = re.compile(r"(?:\s+|#[^\n]*)*")
_TOKEN = re.compile(r"""[{}<>\[\]:,;]|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|[^\s{}<>\[\]:,;"'#]+""")
_OPENING = {"{": "}", "<": ">"}


class OutlineError(Exception):
    """The text is not in the text format from line `line` (counted from 1) on."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.line = line


@dataclass(slots=True)
class Entry:
    """A field: `text[start:end]`, beginning on `line`. `children` is None for a scalar, whose tokens are in `value`."""

    name: str
    line: int
    start: int
    end: int = 0
    value: list[str] = field(default_factory=list)
    children: list["Entry"] | None = None


def outline(text: str) -> list[Entry]:
    """Return the fields of a text.

    Args:
        text: a message in the text format.

    Returns:
        The fields, in order.

    Raises:
        OutlineError: brackets, colons or quotes do not match up.
    """
    return _Reader(text).fields(None)


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._line = 1
        self._counted = 0  # characters whose line breaks _line has counted
        self._end = 0  # of the previous token
        self._start = 0
        self._token = ""
        self._advance()

    def fields(self, opening: Entry | None, closing: str = "") -> list[Entry]:
        """Return the fields up to `closing`, which is consumed: of the message of `opening`, or of the whole text."""
        entries: list[Entry] = []
        while self._token != closing:
            if not self._token and opening is not None:
                raise OutlineError(opening.line, f'the brace of "{opening.name}" that opens here is never closed')
            if self._token in ("}", ">"):
                raise OutlineError(self._line, f'"{self._token}" closes nothing')
            entries += self._field()
        if closing:
            self._advance()
        return entries

    def _field(self) -> list[Entry]:
        """Return one field, or one per message in `name: [{...}, {...}]`."""
        if not re.match(r"[A-Za-z_]", self._token):
            raise OutlineError(self._line, f"the name of a field is missing before {self._token or 'the end'}")
        first = Entry(self._token, self._line, self._start)
        self._advance()
        colon = self._skip(":")
        if self._token in _OPENING:
            first.children = self._message(first)
            entries = [first]
        elif not colon:
            raise OutlineError(first.line, f'":" or "{{" is missing after "{first.name}"')
        elif self._skip("["):
            entries = self._list(first)
        else:
            first.value = self._scalar(first)
            entries = [first]
        for entry in entries:
            entry.end = entry.end or self._end
        if not self._skip(","):
            self._skip(";")
        return entries

    def _list(self, first: Entry) -> list[Entry]:
        entries = [first]
        while not self._skip("]"):
            if self._token in _OPENING:
                if first.children is not None:
                    entries.append(Entry(first.name, self._line, self._start))
                entries[-1].children = self._message(entries[-1])
            else:
                first.value += self._scalar(first)
            if self._token != "]" and not self._skip(","):
                raise OutlineError(self._line, f'"," or "]" is missing in the list of "{first.name}"')
        return entries

    def _message(self, entry: Entry) -> list[Entry]:
        opening = self._token
        self._advance()
        return self.fields(entry, _OPENING[opening])

    def _scalar(self, entry: Entry) -> list[str]:
        """Return a word, or adjacent strings, which form one value."""
        value: list[str] = []
        while self._token[:1] in ('"', "'") if value else not re.match(r"[{}<>\[\]:,;]|$", self._token):
            value.append(self._token)
            self._advance()
            if value[0][0] not in "\"'":
                break
        if not value:
            raise OutlineError(entry.line, f'the value of "{entry.name}" is missing')
        return value

    def _skip(self, token: str) -> bool:
        if self._token != token:
            return False
        self._advance()
        return True

    def _advance(self) -> None:
        self._end = self._start + len(self._token)
        space = _SPACE.match(self._text, self._end)
        assert space is not None
        self._start = space.end()
        self._line += self._text.count("\n", self._counted, self._start)
        self._counted = self._start
        match = _TOKEN.match(self._text, self._start)
        if match is None and self._start < len(self._text):
            raise OutlineError(self._line, f"a string has no end: {self._text[self._start :].splitlines()[0]}")
        self._token = match.group() if match else ""
