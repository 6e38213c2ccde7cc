"""Make signals something that a `select` loop can wait for."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, Self

__all__ = ["Signals", "ending_at_once"]

_STOPPING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signals:
    """A context manager inside which signals make `fileno()` readable instead of interrupting the main thread.

    It watches the end of a child and the requests to stop: SIGINT, SIGTERM and SIGHUP, each unless this
    process was started with it ignored (as `nohup` does). The first request is kept in `request`; the second
    raises `KeyboardInterrupt`, which also ends a blocked write to a terminal or pipe.
    """

    def __init__(self) -> None:
        self.request: signal.Signals | None = None
        self._requests = 0
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wakeup_before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._before: dict[int, Any] = {signal.SIGCHLD: signal.signal(signal.SIGCHLD, lambda *_: None)}
        for number in _STOPPING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._requested)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._reader)
        os.close(self._writer)

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._reader

    def drain(self) -> None:
        """Make `fileno()` unreadable until the next signal."""
        os.read(self._reader, 4096)

    def forget(self) -> None:
        """Forget the request: the next one counts as the first."""
        self.request = None
        self._requests = 0

    def _requested(self, number: int, frame: FrameType | None) -> None:
        self._requests += 1
        if self._requests == 1:
            self.request = signal.Signals(number)
        elif self._requests == 2:
            raise KeyboardInterrupt


@contextmanager
def ending_at_once(number: signal.Signals) -> Iterator[None]:
    """Have the kernel end this process by a signal, while there is nothing to stop and no `Signals` yet.

    An exception that a handler raises while modules are imported can get lost in a callback. A signal that this process
    was started with ignored stays so.
    """
    before = signal.getsignal(number)
    if before is not signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(number, before)
