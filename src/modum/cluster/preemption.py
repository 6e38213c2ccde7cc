"""Preemption: SIGTERM asks a worker to leave its job in order, within a time of grace."""

import contextlib
import os
import signal
import sys
import threading
import weakref
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Any, Final, Self

from modum.units import parse_seconds
from modum.waiting import Deadline

__all__ = ["DEFAULT_GRACE", "GRACE_VARIABLE", "NOTICE_VARIABLE", "Notice", "Preemption", "Request"]

GRACE_VARIABLE: Final = "MODUM_GRACE"
NOTICE_VARIABLE: Final = "MODUM_NOTICE"
DEFAULT_GRACE: Final = 30.0
"""Seconds; what Kubernetes gives a pod, and Slurm a job that it cancels."""
_PATIENCE: Final = 0.5
"""Part of what is left of the grace that a worker waits for the others' last exchanges."""


class Request(StrEnum):
    """What a launcher says along with SIGTERM: one letter, which is replaced in one piece."""

    NOTHING = ""
    """The signal is not the launcher's: this worker alone was asked to leave."""
    LEAVE = "l"
    """All workers were."""
    END = "e"
    """The run is over: a worker, or Ctrl-C, has ended it."""


class Notice:
    """A word from a launcher to a process that it starts, which goes with a signal; lies in memory, under a path.

    Attributes:
        path: where the process reads it, for as long as this object is open.
    """

    def __init__(self) -> None:
        self._fd = os.memfd_create("modum-notice")
        self.path = f"/proc/{os.getpid()}/fd/{self._fd}"

    def say(self, request: Request) -> None:
        """Replace the word."""
        os.pwrite(self._fd, request.encode(), 0)

    def close(self) -> None:
        """Take the word away. Does nothing the second time."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Preemption:
    """Notes that this process was asked to leave, and kills it if it has not by the end of the grace.

    Args:
        grace: seconds from the signal to SIGKILL.
        notice: path of the launcher's `Notice`; empty: there is none.

    Attributes:
        stopping: whether this process was asked to leave.
        grace: as given.

    Raises:
        ValueError: the grace is not positive.
    """

    def __init__(self, grace: float = DEFAULT_GRACE, notice: str = "") -> None:
        if not grace > 0:
            raise ValueError(f"the grace ({grace:g} s) must be positive: modum run --grace 30s, or {GRACE_VARIABLE}")
        self.stopping = False
        self.grace = grace
        self._notice = notice
        self._deadline = Deadline(None)
        self._before: Any = None
        self._installed = False
        self._asked, self._closed = threading.Event(), threading.Event()

    @classmethod
    def of_environment(cls) -> Self:
        """Make what the launcher's variables describe.

        Returns:
            It; with the defaults where they say nothing.

        Raises:
            ValueError: MODUM_GRACE is not a time.
        """
        grace = os.environ.get(GRACE_VARIABLE)
        return cls(parse_seconds(grace) if grace else DEFAULT_GRACE, os.environ.get(NOTICE_VARIABLE, ""))

    def install(self) -> None:
        """Handle SIGTERM from now on, besides a handler that is there already.

        Nothing is done outside the main thread, which alone may install handlers, or where the signal is ignored.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        before = signal.getsignal(signal.SIGTERM)
        if before is signal.SIG_IGN or before is None:  # None: a handler of C code, which cannot be called from here
            return
        self._before = before
        self._installed = True
        signal.signal(signal.SIGTERM, self._handle)
        # waits beside the script from the start: a handler must not start threads
        threading.Thread(target=self._watch, name="modum-grace", daemon=True).start()
        let_go = weakref.WeakMethod(self._uninstall)
        # a forked child (a loader of data, say) has to end by SIGTERM
        os.register_at_fork(after_in_child=lambda: (method := let_go()) and method())

    def request(self) -> None:
        """Ask this process to leave. Does nothing the second time."""
        if not self.stopping:
            self._deadline = Deadline(self.grace)
            self.stopping = True
            self._asked.set()

    @property
    def patience(self) -> float | None:
        """Seconds to wait for the others' last exchanges; None where this worker alone leaves, and they go on."""
        return self._deadline.left * _PATIENCE if self._told() is Request.LEAVE else None

    def close(self) -> None:
        """Restore the handler that was there before; nothing is killed any more. Does nothing the second time."""
        self._closed.set()
        self._asked.set()
        if threading.current_thread() is threading.main_thread():
            self._uninstall()

    def _uninstall(self) -> None:
        if self._installed and signal.getsignal(signal.SIGTERM) == self._handle:
            signal.signal(signal.SIGTERM, self._before)
        self._installed = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._closed.is_set() or self._told() is Request.END:
            if not callable(self._before):
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
                return
        else:
            self.request()
        if callable(self._before):
            self._before(number, frame)

    def _told(self) -> Request:
        with contextlib.suppress(OSError):  # the launcher is gone, and this process with it
            if self._notice:
                return Request(Path(self._notice).read_text())
        return Request.NOTHING

    def _watch(self) -> None:
        self._asked.wait()
        if not self._closed.wait(self._deadline.left):
            text = f"modum: still here {self.grace:g} s after SIGTERM, which is the grace (modum run --grace): killed\n"
            os.write(sys.__stderr__.fileno() if sys.__stderr__ is not None else 2, text.encode())
            os.kill(os.getpid(), signal.SIGKILL)
