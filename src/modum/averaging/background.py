"""The background thread on which a worker's transfers with the box run."""

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class _Job:
    """One transfer: ``seconds`` is set before ``finished``."""

    def __init__(self, transfer: Callable[[], None]) -> None:
        self.transfer = transfer
        self.finished = threading.Event()
        self.seconds = 0.0


class BackgroundTransfer:
    """Runs one transfer at a time beside compute, and a heartbeat after each and while there is none.

    heartbeat
        Called on the thread after every transfer, and every ``heartbeat_seconds`` when idle: it keeps the
        worker's lease alive and counts the groups. What it raises comes out of the next `collect`.
    clock
        Seconds, never going back; the measure of ``seconds`` and ``waited``.
    """

    def __init__(
        self,
        heartbeat: Callable[[], None],
        *,
        heartbeat_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._heartbeat = heartbeat
        self._heartbeat_seconds = heartbeat_seconds
        self._clock = clock
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._pending: _Job | None = None
        self._failure: BaseException | None = None
        self.count = 0
        """Transfers collected."""
        self.seconds = 0.0
        """What they took on the thread."""
        self.waited = 0.0
        """How much of that time `collect` waited: the part that was not hidden under compute."""
        self._thread = threading.Thread(target=self._run, name="modum-exchange", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> bool:
        """Whether a transfer was submitted and not collected."""
        return self._pending is not None

    @property
    def ready(self) -> bool:
        """Whether `collect` would return (or raise) at once with something to say."""
        return self._failure is not None or (self._pending is not None and self._pending.finished.is_set())

    def submit(self, transfer: Callable[[], None]) -> None:
        """Start a transfer. The one before must have been collected."""
        assert self._pending is None, "the transfer before was not collected"
        self._pending = _Job(transfer)
        self._jobs.put(self._pending)

    def collect(self) -> float | None:
        """Wait for the pending transfer and return the seconds it took, or None where none is pending.

        Raises what the transfer or a heartbeat raised; the transfer is over then as well. Waiting has no
        limit of its own: every operation of the box has.
        """
        job, self._pending = self._pending, None
        if job is not None and not job.finished.is_set():
            start = self._clock()
            job.finished.wait()
            self.waited += self._clock() - start
        if self._failure is not None:
            raise self._failure
        if job is None:
            return None
        self.count += 1
        self.seconds += job.seconds
        return job.seconds

    def close(self) -> None:
        """Finish the pending transfer, then end the thread. What the transfer raised is forgotten."""
        self._jobs.put(None)
        self._thread.join()
        self._pending = None

    def _run(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=self._heartbeat_seconds)
            except queue.Empty:
                self._guarded(self._heartbeat)
                continue
            if job is None:
                return
            start = self._clock()
            self._guarded(job.transfer)
            job.seconds = self._clock() - start
            self._guarded(self._heartbeat)
            job.finished.set()

    def _guarded(self, call: Callable[[], None]) -> None:
        """Run ``call`` unless something failed before; keep what it raises for `collect`."""
        if self._failure is None:
            try:
                call()
            except BaseException as error:  # noqa: BLE001 - raised on the worker's own thread by collect
                self._failure = error
