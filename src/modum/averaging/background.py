"""The background thread on which a worker's transfers with the box run."""

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING

from modum.averaging.averaging import Transferred

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class _Job:
    """One transfer: `seconds` and `rates` are set before `finished`."""

    def __init__(self, transfer: Callable[[], Sequence[float]]) -> None:
        self.transfer = transfer
        self.finished = threading.Event()
        self.seconds = 0.0
        self.rates: Sequence[float] = ()

    def run(self) -> None:
        """Carry the transfer out."""
        self.rates = self.transfer()


class BackgroundTransfer:
    """Runs one transfer at a time beside compute, on its own thread.

    Args:
        after: called on the thread after every transfer, and every `idle_seconds` while there is none. The next
            `collect` raises what it raises.
        idle_seconds: see `after`.
        clock: returns seconds, monotonic; measures `seconds` and `waited`.

    Attributes:
        count: transfers collected.
        seconds: time that they took on the thread.
        waited: how much of that time a caller waited: the part that was not hidden under compute.
    """

    def __init__(
        self,
        after: Callable[[], None],
        *,
        idle_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._after = after
        self._idle_seconds = idle_seconds
        self._clock = clock
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._pending: _Job | None = None
        self._failure: BaseException | None = None
        self.count = 0
        self.seconds = 0.0
        self.waited = 0.0
        self._thread = threading.Thread(target=self._run, name="modum-exchange", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> bool:
        """Whether a transfer was submitted and not collected."""
        return self._pending is not None

    @property
    def ready(self) -> bool:
        """Whether `collect` would return or raise at once: a transfer is over, or something failed."""
        return self._failure is not None or (self._pending is not None and self._pending.finished.is_set())

    def submit(self, transfer: Callable[[], Sequence[float]]) -> None:
        """Start a transfer, which returns the rates of its exchange. The one before must have been collected."""
        assert self._pending is None, "the transfer before was not collected"
        self._pending = _Job(transfer)
        self._jobs.put(self._pending)

    def collect(self) -> Transferred | None:
        """Return what the pending transfer has left, waiting for it; None where none is pending.

        Returns:
            Seconds and rates, or None.

        Raises:
            Exception: the transfer, or `after`, raised it; the transfer is over then as well.
        """
        self.wait()
        job, self._pending = self._pending, None
        if self._failure is not None:
            raise self._failure
        if job is None:
            return None
        self.count += 1
        self.seconds += job.seconds
        return Transferred(job.seconds, job.rates)

    def wait(self) -> None:
        """Wait until the pending transfer is over, without a timeout: every box operation has its own."""
        job = self._pending
        if job is not None and not job.finished.is_set():
            start = self._clock()
            job.finished.wait()
            self.waited += self._clock() - start

    def close(self) -> None:
        """Finish the pending transfer, ignoring its exception, and end the thread."""
        self._jobs.put(None)
        self._thread.join()
        self._pending = None

    def _run(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=self._idle_seconds)
            except queue.Empty:
                self._guarded(self._after)
                continue
            if job is None:
                return
            start = self._clock()
            self._guarded(job.run)
            job.seconds = self._clock() - start
            self._guarded(self._after)
            job.finished.set()

    def _guarded(self, call: Callable[[], None]) -> None:
        """Run `call` unless something failed before; keep what it raises for `collect`."""
        if self._failure is None:
            try:
                call()
            except BaseException as error:  # noqa: BLE001 - raised on the worker's own thread by collect
                self._failure = error
