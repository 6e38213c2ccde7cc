"""The progress of a job: every worker reports into the box, and any client of the box can read it."""

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from modum.box import Box, Buffer
from modum.errors import BufferExistsError, BufferNotFoundError, MismatchError

__all__ = [
    "JobProgress",
    "WorkerProgress",
    "clear_progress",
    "join_workers",
    "joined_workers",
    "last_step",
    "read_progress",
    "took_steps",
]

_BUFFER = "modum/progress"
"""One row per rank, one column per name below: float64 values, bit for bit in an int64 buffer."""
_JOINED = "modum/joined"
"""A counter of the workers that have joined since the launch; the progress of each is a buffer of its own."""
_COLUMNS = (
    "samples",
    "steps",
    "total",
    "losses",
    "loss",
    "exchanges",
    "exchange_seconds",
    "hidden_seconds",
    "now",
    "finished",
    "written",
)
_SAMPLES, _STEPS, _TOTAL, _LOSSES, _LOSS, _EXCHANGES = range(6)
_EXCHANGE_SECONDS, _HIDDEN_SECONDS, _NOW, _FINISHED, _WRITTEN = range(6, len(_COLUMNS))
_WRITE_SECONDS = 0.5
"""Seconds between two writes of a worker."""


class WorkerProgress:
    """Collects a worker's reports, and writes them to the box twice a second on a separate thread.

    Reporting never waits for the network. Thread-safe. What this rank reported into the same box in an earlier
    life still counts.

    Args:
        box: to write to.
        rank: of the worker.
        world_size: of the job, as it was launched; a larger rank is one that has joined later.
        clock: seconds, never going back; the measure of `JobProgress.now`.

    Raises:
        MismatchError: the box keeps the progress of a job with too few workers for this rank.
    """

    def __init__(self, box: Box, rank: int, world_size: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        joins = rank >= world_size
        self._buffer = _create_or_open(box, f"{_BUFFER}/{rank}" if joins else _BUFFER, 1 if joins else world_size)
        workers = self._buffer.shape[0]
        if not joins and rank >= workers:
            self._buffer.close()
            raise MismatchError(
                f"rank {rank} of {world_size} cannot report: the box keeps the progress of a job of "
                f"{workers} workers\n"
                "HINT: start this job with `modum run --box`, or in another box"
            )
        self._offset = 0 if joins else rank * len(_COLUMNS)
        row = self._buffer.read(offset=self._offset, count=len(_COLUMNS))
        self._row = row.reshape(len(_COLUMNS)).view(np.float64)
        self._changed = False
        self._failure: Exception | None = None
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def report(
        self,
        *,
        samples: int = 0,
        steps: int = 0,
        total: int | None = None,
        loss: float | None = None,
        exchange_seconds: float = 0.0,
        hidden_seconds: float = 0.0,
        finished: int | None = None,
    ) -> None:
        """Add the work done since the last report.

        Args:
            samples: samples that this worker trained on.
            steps: steps that this worker took.
            total: samples of the whole job, as known now.
            loss: the newest loss.
            exchange_seconds: seconds of one exchange; 0: there was none.
            hidden_seconds: how much of that was hidden under compute.
            finished: samples of the whole job that are known to be done, whoever did them.

        Raises:
            ModumError: writing an earlier report failed.
        """
        if self._failure is not None:
            raise self._failure
        with self._lock:
            row = self._row
            row[_SAMPLES] += samples
            row[_STEPS] += steps
            if total is not None:
                row[_TOTAL] = total
            if loss is not None:
                row[_LOSS] = loss
                row[_LOSSES] += 1
            if exchange_seconds > 0:
                row[_EXCHANGES] += 1
                row[_EXCHANGE_SECONDS] += exchange_seconds
                row[_HIDDEN_SECONDS] += hidden_seconds
            if finished is not None:
                row[_FINISHED] = finished
            row[_NOW] = self._clock()
            self._changed = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="modum-progress", daemon=True)
                self._thread.start()

    def flush(self) -> None:
        """Write pending reports, and wait until they are there; for the end, and before a long pause."""
        with self._writing:  # one at a time, each with the newest values
            with self._lock:
                changed, self._changed = self._changed, False
                row = self._row.copy()
            if changed:
                row[_WRITTEN] = time.time()  # other hosts compare it with their own
                self._buffer.write(row.view(np.int64), offset=self._offset)

    def close(self) -> None:
        """Write pending reports, and close the box's buffer. Closing twice does nothing."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()
        self.flush()
        self._buffer.close()

    def _run(self) -> None:
        while not self._closed.wait(_WRITE_SECONDS):
            try:
                self.flush()
            except Exception as error:  # noqa: BLE001 - raised on the worker's own thread by report
                self._failure = error
                return


@dataclass(frozen=True, kw_only=True, slots=True)
class JobProgress:
    """All workers' reports together."""

    samples: int
    """Samples trained on, by all workers. A worker that is killed has not reported those of its last half second; they
    count once its job's samples have come to their end."""
    steps: int
    """Steps taken, by all workers together."""
    total: int | None
    """Samples of the whole job; None if no worker has reported it."""
    loss: float | None
    """Mean of the workers' newest losses; None before the first."""
    exchanges: int
    exchange_seconds: float
    """Total seconds of all exchanges of all workers."""
    hidden_seconds: float
    """The part of `exchange_seconds` that was hidden under compute."""
    ranks: int
    """Workers that have reported."""
    world_size: int
    now: float = field(default=0.0, compare=False)
    """Seconds on the worker's own clock at its newest report; of several workers, the largest."""

    @property
    def seconds_per_exchange(self) -> float:
        """Mean time of one exchange; 0 before the first."""
        return self.exchange_seconds / max(self.exchanges, 1)

    @property
    def hidden_fraction(self) -> float:
        """Fraction of the exchange time that was hidden under compute, 0 to 1; 0 before the first exchange."""
        return self.hidden_seconds / self.exchange_seconds if self.exchanges else 0.0


def read_progress(box: Box) -> JobProgress | None:
    """Return the newest progress that workers have written into `box`; None before the first worker joined."""
    with contextlib.suppress(BufferNotFoundError):
        rows = _rows(box, _BUFFER)
        for rank in range(len(rows), len(rows) + joined_workers(box)):
            with contextlib.suppress(BufferNotFoundError):  # it has not reported anything yet
                rows = np.concatenate([rows, _rows(box, f"{_BUFFER}/{rank}")])
        reported = rows[rows.any(axis=1)]
        losses = rows[rows[:, _LOSSES] > 0, _LOSS]
        sums = rows.sum(axis=0)
        return JobProgress(
            samples=int(max(sums[_SAMPLES], rows[:, _FINISHED].max())),
            steps=int(sums[_STEPS]),
            total=int(rows[:, _TOTAL].max()) or None,
            loss=float(losses.mean()) if losses.size else None,
            exchanges=int(sums[_EXCHANGES]),
            exchange_seconds=float(sums[_EXCHANGE_SECONDS]),
            hidden_seconds=float(sums[_HIDDEN_SECONDS]),
            ranks=len(reported),
            world_size=len(rows),
            now=float(rows[:, _NOW].max()),
        )
    return None


def last_step(box: Box, rank: int) -> tuple[int, float] | None:
    """Return what is known of a worker's last step.

    Args:
        box: the job's.
        rank: of the worker.

    Returns:
        How many steps it had reported, and how many seconds ago, as far as the hosts' clocks agree; None: nothing.
    """
    with contextlib.suppress(BufferNotFoundError):
        rows = _rows(box, _BUFFER)
        row = rows[rank] if rank < len(rows) else _rows(box, f"{_BUFFER}/{rank}")[0]
        if row[_WRITTEN]:
            return int(row[_STEPS]), max(0.0, time.time() - float(row[_WRITTEN]))
    return None


def took_steps(box: Box) -> bool:
    """Return whether any worker has reported a step or an exchange: one that was late has had nothing left to train."""
    progress = read_progress(box)
    return progress is not None and progress.steps + progress.exchanges > 0


def clear_progress(box: Box) -> None:
    """Delete the progress that an earlier job left in `box`, and forget who has joined it."""
    joined = joined_workers(box)
    with contextlib.suppress(BufferNotFoundError):
        launched = len(_rows(box, _BUFFER))
        for rank in range(launched, launched + joined):
            with contextlib.suppress(BufferNotFoundError):
                box.delete(f"{_BUFFER}/{rank}")
        box.delete(_BUFFER)
    box.counter(_JOINED).add(-joined)


def joined_workers(box: Box) -> int:
    """Return how many workers have joined the job since its launch: their ranks follow those of the launch."""
    return box.counter(_JOINED).value


def join_workers(box: Box, workers: int) -> int:
    """Take the next numbers among the workers that have joined.

    Args:
        box: the job's.
        workers: how many come.

    Returns:
        How many have joined before.
    """
    return box.counter(_JOINED).add(workers)


def _rows(box: Box, name: str) -> NDArray[np.float64]:
    buffer = box.open(name)
    try:
        return buffer.read().view(np.float64).reshape(-1, len(_COLUMNS))
    finally:
        buffer.close()


def _create_or_open(box: Box, name: str, workers: int) -> Buffer:
    try:
        return box.create(name, (workers, len(_COLUMNS)), "int64", meta={"columns": _COLUMNS})
    except BufferExistsError:
        return box.open(name)
