"""A child's output, cut into lines as it comes."""

__all__ = ["LineSplitter"]

_LONGEST = 2**16
"""Bytes after which a line without an end is passed on as it is, so that no output can fill the memory."""


class LineSplitter:
    r"""Makes lines of text out of pieces of bytes; what is not UTF-8 becomes replacement characters.

    Of a line that was rewritten in place (`\r`, as progress bars do) the last form is kept.
    """

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[str]:
        """Return the lines that `data` completes, without their ends."""
        self._rest += data
        end = self._rest.rfind(b"\n") + 1
        if len(self._rest) - end > _LONGEST:
            end = len(self._rest)
        complete, self._rest = self._rest[:end], self._rest[end:]
        return [_text(line) for line in complete.removesuffix(b"\n").split(b"\n")] if complete else []

    def finish(self) -> list[str]:
        """Return the line that was begun and never ended, if any."""
        rest, self._rest = self._rest, bytearray()
        return [_text(rest)] if rest else []


def _text(line: bytes | bytearray) -> str:
    return line.decode(errors="replace").rstrip("\r").rpartition("\r")[2]
