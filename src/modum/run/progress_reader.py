"""The launcher's place in the box, in a thread of its own: a box that hangs must not hold up the launcher."""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from modum.box import Box
from modum.cluster.registration import Joined, Running, connected, note_ended
from modum.errors import ModumError
from modum.observe.progress import JobProgress, joined_workers, read_progress, took_steps

__all__ = ["ProgressReader"]

_READ_SECONDS: Final = 0.5
_TIMEOUT_SECONDS: Final = 1.0


class ProgressReader:
    """The newest progress of a job, until it is finished.

    Args:
        servers: addresses of the box's servers, in its order.
        token: the box's.
        job: the job's namespace there.
        failure: name of the value by which launchers tell each other to stop; empty: there is none.
        ranks: of the workers on this host.
        announce: called once with the box: writes there what those need to know who join the job.

    Attributes:
        latest: None until a worker has reported; no longer changes once the box cannot be reached.
        failure: why another host says that the job is to stop; None if none does.
        leaving: whether its workers leave in order, as those of all hosts should.
        connected: those of `ranks` that have joined the job; None: not known yet, it is looked up at the end.
        shared: whether any worker has shared weights, or numbers of its own.
        joined: the workers that have joined the job since its launch.
    """

    def __init__(
        self,
        servers: Sequence[str],
        token: str | None,
        job: str = "",
        failure: str = "",
        ranks: Iterable[int] = (),
        announce: Callable[[Box], None] = lambda box: None,
    ) -> None:
        self.latest: JobProgress | None = None
        self.failure: str | None = None
        self.leaving = False
        self.connected: list[int] | None = None
        self.shared = False
        self.joined: list[Joined] = []
        self._announce = announce
        self._announced = False
        self._ranks = ranks
        self._job = job
        self._failure = failure
        self._said: list[object] | None = None
        self._finished, self._wake, self._looked = threading.Event(), threading.Event(), threading.Event()
        self._ended: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, args=(servers, token, job), daemon=True)
        self._thread.start()

    def ended(self, rank: int, end: str) -> None:
        """Have the other workers and launchers told that this worker has ended, and how."""
        self._ended.put((rank, end))
        self._wake.set()

    def look(self, timeout: float) -> None:
        """Read now, and wait for that; `timeout` seconds at most."""
        self._looked.clear()
        self._wake.set()
        self._looked.wait(timeout)

    def fail(self, reason: str, *, leaving: bool = False) -> None:
        """Have the launchers of the other hosts told that the job is to stop.

        Args:
            reason: why.
            leaving: whether the workers of this host leave in order.
        """
        self._said = [reason, leaving]

    def finish(self, timeout: float) -> None:
        """Read once more and end; after `timeout` seconds, leave a box that hangs to time out by itself."""
        self._finished.set()
        self._wake.set()
        self._thread.join(timeout)

    def _run(self, servers: Sequence[str], token: str | None, job: str) -> None:
        while not self._finished.is_set():
            # the workers use the same box, and their errors say more
            with (
                contextlib.suppress(ModumError),
                Box.connect(servers, token=token, transport="tcp", timeout=_TIMEOUT_SECONDS, namespace=job) as box,
            ):
                self._follow(box)
            self._wait()

    def _wait(self) -> None:
        self._wake.wait(_READ_SECONDS)
        self._wake.clear()

    def _follow(self, box: Box) -> None:
        finished = False
        if not self._announced:
            self._announce(box)
            self._announced = True
        while not finished:
            self._wait()
            finished = self._finished.is_set()
            self.latest = read_progress(box) or self.latest
            while not self._ended.empty():
                note_ended(box, *self._ended.get())
            if joined_workers(box):
                self.joined = Running(box, self._job).joined()
            if finished:
                self.shared = took_steps(box) or _has_buffers_of_scripts(box)
                self.connected = connected(box, self._ranks)
            if self._failure:
                failure = box.value(self._failure)
                said = failure.get() if self._said is None else failure.set_default(self._said)
                if said is not None:
                    self.failure, self.leaving = said
            self._looked.set()


def _has_buffers_of_scripts(box: Box) -> bool:
    """Return whether scripts have made buffers; those of averagers are known by their settings."""
    return any(not info.name.startswith("modum/") and "settings" not in (info.meta or {}) for info in box.list())
