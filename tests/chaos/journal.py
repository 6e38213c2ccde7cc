"""What a client notes, one line of JSON before an operation and one after, so that it can be killed at any moment."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modum.errors import BufferExistsError, BufferNotFoundError, ConnectionLostError, DeadlineError, LeaseLostError

Doubt = (ConnectionLostError, DeadlineError)
"""What says that an operation may have been done, or not."""
Refusal = (BufferExistsError, BufferNotFoundError, LeaseLostError)
"""What says that it was not done, and why."""


class Journal:
    """The journal of one process.

    Args:
        path: of the file, which must not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self._numbers = 0

    def close(self) -> None:
        """Write nothing more."""
        os.close(self._file)

    @contextmanager
    def operation(self, kind: str, name: str, **what: Any) -> Iterator[dict[str, Any]]:
        """Note an operation before it begins, and how it ended.

        Args:
            kind: of the operation.
            name: of what it is done to.
            **what: else is to be known of it.

        Yields:
            A place for what the operation saw, which is noted with its end.
        """
        number = self._numbers = self._numbers + 1
        # the time is taken before the line is written, and the line is there before anything is asked for
        self._write({"number": number, "time": time.monotonic(), "kind": kind, "name": name, **what})
        seen: dict[str, Any] = {}
        try:
            yield seen
        except Doubt as error:
            self._end(number, "doubt", error=str(error))
            raise
        except Refusal as error:
            self._end(number, "refused", error=f"{type(error).__name__}: {error}")
            raise
        except Exception as error:
            self._end(number, "wrong", error=f"{type(error).__name__}: {error}")
            raise
        else:
            self._end(number, "done", **seen)

    def _end(self, number: int, end: str, **what: Any) -> None:
        self._write({"number": number, "time": time.monotonic(), "end": end, **what})

    def _write(self, line: dict[str, Any]) -> None:
        os.write(self._file, json.dumps(line).encode() + b"\n")


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a journal; the last one may be cut off where its writer was killed."""
    *whole, _ = path.read_bytes().split(b"\n")
    return [json.loads(line) for line in whole]
