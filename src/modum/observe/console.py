"""What `modum run` shows: the workers' output, and a status line with the job's progress."""

import io
import sys
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Self, TextIO

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from modum.observe.progress import JobProgress

__all__ = ["RunConsole", "SampleRate", "describe"]

_COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "bright_cyan", "bright_magenta", "bright_green")
_DRAW_SECONDS = 0.25
_PLAIN_SECONDS = 10.0
_RATE_SECONDS = 10.0
_WIDEST_BAR = 40
_NARROWEST_BAR = 10


class RunConsole:
    """Shows the output of one run; a context manager.

    If standard error is a terminal, its last line shows the job's progress, and is redrawn in place while output
    scrolls above it. Elsewhere such a line is written every ten seconds, and output is plain text: the workers'
    standard output goes to standard output, everything else to standard error.
    """

    def __init__(
        self,
        workers: int,
        *,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._workers = workers
        self._streams = {"stdout": stdout or sys.stdout, "stderr": stderr or sys.stderr}
        self._clock = clock
        self._shown = clock()
        self._progress: JobProgress | None = None
        self._rate = SampleRate()
        for stream in self._streams.values():
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8 shows what it can
        console = Console(file=self._streams["stderr"], highlight=False)
        on_terminal = self._streams["stderr"].isatty() and not console.is_dumb_terminal
        self._live = Live(console=console, auto_refresh=False) if on_terminal else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def output(self, label: str, number: int, stream: Literal["stdout", "stderr"], lines: list[str]) -> None:
        """Show lines that a process wrote to `stream`, each after its `label`, if any, in the colour of `number`."""
        gap = " " if label else ""
        if self._live and self._streams[stream].isatty():
            prefix = (label, _COLOURS[number % len(_COLOURS)])
            self._print(Text("\n").join(Text.assemble(prefix, gap, Text.from_ansi(line)) for line in lines))
        else:
            self._write(stream, "".join(f"{label}{gap}{line}\n" for line in lines))

    def message(self, text: str, *, error: bool = False) -> None:
        """Show a message of the launcher itself."""
        if self._live:
            self._print(Text(f"modum: {text}", style="bold red" if error else "bold"))
        else:
            self._write("stderr", f"modum: {text}\n")

    def show(self, progress: JobProgress | None, alive: int, done: int, *, last: bool = False) -> None:
        """Update the status line when it is due, and always if it is the `last`."""
        now = self._clock()
        if progress is not None and progress is not self._progress:
            self._progress = progress
            self._rate.update(now, progress.samples)
        if not last and now - self._shown < (_DRAW_SECONDS if self._live else _PLAIN_SECONDS):
            return
        self._shown = now
        parts = describe(progress, self._rate.latest, alive, done, self._workers)
        if self._live:
            self._live.update(self._line(progress, "  ".join(parts)), refresh=True)
            if last:
                self._live.stop()  # later output appears below it
        else:
            self._write("stderr", f"modum: {', '.join(parts)}\n")

    def _line(self, progress: JobProgress | None, text: str) -> RenderableType:
        assert self._live is not None
        room = self._live.console.width - len(text) - len(" ") - len("^C")  # which a terminal echoes after it
        if progress is None or progress.total is None or room < _NARROWEST_BAR:
            return Text(text)
        line = Table.grid(padding=(0, 1))
        bar = ProgressBar(progress.total, progress.samples, width=min(room, _WIDEST_BAR))
        line.add_row(bar, text)
        return line

    def _print(self, text: Text) -> None:
        assert self._live is not None
        self._live.console.print(text, soft_wrap=True)

    def _write(self, stream: Literal["stdout", "stderr"], text: str) -> None:
        self._streams[stream].write(text)
        self._streams[stream].flush()


class SampleRate:
    """Samples per second, over the last ten seconds."""

    def __init__(self) -> None:
        self.latest: float | None = None
        """Samples per second; None until there are two counts to compare."""
        self._points: deque[tuple[float, int]] = deque()

    def update(self, now: float, samples: int) -> None:
        """Record that `samples` were counted at the time `now`, in seconds."""
        self._points.append((now, samples))
        while now - self._points[0][0] > _RATE_SECONDS and len(self._points) > 2:
            self._points.popleft()
        then, samples_then = self._points[0]
        if now > then:
            self.latest = (samples - samples_then) / (now - then)


def describe(progress: JobProgress | None, rate: float | None, alive: int, done: int, workers: int) -> list[str]:
    """Return the known parts of the status line: samples, their rate, loss, exchange time, live workers.

    Once no worker is alive, the last part says how many of all `workers` are `done`.
    """
    parts = []
    if progress is not None:
        of_total = f"/{progress.total:,}" if progress.total else ""
        parts.append(f"{progress.samples:,}{of_total} samples")
        if rate is not None:
            parts.append(f"{rate:,.0f}/s")
        if progress.loss is not None:
            parts.append(f"loss {progress.loss:.4g}")
        if progress.exchanges:
            milliseconds = 1000 * progress.seconds_per_exchange
            parts.append(f"exchange {milliseconds:.3g} ms ({progress.hidden_fraction:.0%} hidden)")
    parts.append(f"{alive}/{workers} workers" if alive else f"{done}/{workers} workers done")
    return parts
