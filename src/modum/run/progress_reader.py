"""Reads the job's progress, in a thread of its own: a box that hangs must not hold up the launcher."""

import contextlib
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from modum.box import Box
from modum.errors import ModumError
from modum.observe.progress import JobProgress, read_progress

__all__ = ["ProgressReader"]

_READ_SECONDS = 0.5
_TIMEOUT_SECONDS = 1.0


class ProgressReader:
    """The newest progress of a job; a context manager that tells its thread to end.

    `latest` is None until a worker has reported, and stays as it is once the box cannot be reached any more.
    """

    def __init__(self) -> None:
        self.latest: JobProgress | None = None
        self._leave = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leave.set()

    def start(self, servers: Sequence[str], token: str | None, job: str = "") -> None:
        """Begin to read from the box that these servers make; `job` is its namespace there."""
        self._thread = threading.Thread(target=self._run, args=(servers, token, job), daemon=True)
        self._thread.start()

    def finish(self, timeout: float) -> None:
        """Read once more and end; after `timeout` seconds a box that hangs is left to time out by itself."""
        self._leave.set()
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self, servers: Sequence[str], token: str | None, job: str) -> None:
        while not self._leave.is_set():
            # The workers meet the same box, and their errors say more.
            with (
                contextlib.suppress(ModumError),
                Box.connect(servers, token=token, transport="tcp", timeout=_TIMEOUT_SECONDS, namespace=job) as box,
            ):
                self._follow(box)
            self._leave.wait(_READ_SECONDS)

    def _follow(self, box: Box) -> None:
        leaving = False
        while not leaving:
            leaving = self._leave.wait(_READ_SECONDS)
            self.latest = read_progress(box) or self.latest
