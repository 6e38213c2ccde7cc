"""Caffe's log: lines with glog's prefix, which programs that read Caffe's logs understand."""

from __future__ import annotations

import logging
import sys
import threading
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["GlogFormatter", "caffe_log", "output_line"]

LOGGER = "modum.caffe"
_LETTERS = {logging.DEBUG: "I", logging.INFO: "I", logging.WARNING: "W", logging.ERROR: "E", logging.CRITICAL: "F"}


class GlogFormatter(logging.Formatter):
    """`I1123 12:00:00.000000  1234 solver.cpp:240] message`; the file is the module that wrote it."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created)
        letter = _LETTERS.get(record.levelno, "I")
        place = f"{Path(record.pathname).stem}.cpp:{record.lineno}"
        prefix = f"{letter}{moment:%m%d %H:%M:%S.%f} {threading.get_native_id():5d} {place}] "
        return "\n".join(prefix + line for line in record.getMessage().split("\n"))


def output_line(title: str, index: int, name: str, value: float, weight: float) -> str:
    """Return the log line for one number of a net's outputs; `title` is `Train` or `Test`."""
    loss = f" (* {weight:g} = {weight * value:g} loss)" if weight else ""
    return f"    {title} net output #{index}: {name} = {value:g}{loss}"


class _Lines(logging.Handler):
    """Writes lines above the progress bar, if there is one."""

    def __init__(self, write: Callable[[str], None]) -> None:
        super().__init__()
        self._write = write
        self.setFormatter(GlogFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        self._write(self.format(record))


@contextmanager
def caffe_log(
    stream: TextIO | None = None, *, bar: bool = True, quiet: bool = False
) -> Iterator[Callable[[int, int], None]]:
    """Write the log of `modum.caffe` to `stream` (standard error) as Caffe does; only warnings if `quiet`.

    Yields a function that takes the iteration and the last one: it moves a progress bar if the stream is a
    terminal and `bar` is wanted, and does nothing elsewhere.
    """
    stream = stream or sys.stderr
    console = Console(file=stream, highlight=False)
    progress: Progress | None = None
    if bar and stream.isatty() and not console.is_dumb_terminal:
        columns = (TextColumn("iteration"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        progress = Progress(*columns, console=console, transient=True)
    task = progress.add_task("", total=None) if progress else None

    def write(text: str) -> None:
        if progress:
            console.print(Text(text), soft_wrap=True)
        else:
            stream.write(f"{text}\n")
            stream.flush()

    def move(iteration: int, last: int) -> None:
        if progress and task is not None:
            progress.update(task, completed=iteration, total=last)

    logger = logging.getLogger(LOGGER)
    level, propagate = logger.level, logger.propagate
    handler = _Lines(write)
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    logger.propagate = False
    if progress:
        progress.start()
    try:
        yield move
    finally:
        if progress:
            progress.stop()
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
