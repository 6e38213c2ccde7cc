"""The children of a launcher, in one loop that waits for their output, their ends and signals."""

import contextlib
import ctypes
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Self

import psutil

from modum.run import reaper
from modum.run.process import Process, Sink
from modum.run.signals import Signals
from modum.waiting import Deadline, poll

__all__ = ["Interrupted", "Processes"]

_END_SECONDS: Final = 0.6
"""Seconds from SIGTERM to SIGKILL where a run is over: its end takes less than a second in all."""
_KILL_SECONDS: Final = 5.0
"""Seconds to wait for an end by SIGKILL: only a hung disk or driver can delay it."""

_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_GET_CHILD_SUBREAPER: Final = 37
_prctl = ctypes.CDLL(None).prctl


class Interrupted(Exception):  # noqa: N818 - no error, as KeyboardInterrupt is none
    """This process was asked to stop.

    Args:
        number: the signal that asked it.

    Attributes:
        number: as given.
        status: the exit status that a shell expects of a process that this signal ended.
    """

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(f"stopped by {number.name}")
        self.number = number
        self.status = 128 + number


class Processes:
    """The children of a launcher; a context manager that never leaves one behind.

    On leaving, those that still run are killed at once. If this process itself is killed, even by SIGKILL, the
    kernel kills the children, and a separate process, the reaper, kills all that they had started.

    What a child started in a session of its own does not end with the child's process group. While this context lasts,
    the kernel gives such orphans to this process, which kills them on leaving. The reaper does not know of them.

    Use it on the main thread, for the signals, and start children before any thread: between fork
    and exec a child runs a few lines of Python.
    """

    def __init__(self) -> None:
        self._running: list[Process] = []
        with contextlib.ExitStack() as stack:
            self._signals = stack.enter_context(Signals())
            self._strangers = _children()
            stack.enter_context(_adopting())
            self._selector = stack.enter_context(selectors.DefaultSelector())
            self._selector.register(self._signals, selectors.EVENT_READ, None)
            self._reaper = subprocess.Popen(
                [sys.executable, "-I", "-S", reaper.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                start_new_session=True,
            )
            stack.enter_context(self._reaper)  # on leaving, ends its input and waits for it
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        with self._stack:
            for process in self._running:
                process.signal(signal.SIGKILL)
            for process in self._running:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.reap(_KILL_SECONDS)
            self._running.clear()
            with contextlib.suppress(_LeftError):
                poll(lambda: not self._kill_orphans(), timeout=_KILL_SECONDS, every=0.005, error=_LeftError)

    def start(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        sink: Sink,
        *,
        keep_stdin: bool = False,
    ) -> Process:
        """Start a child, whose output `poll` and `stop` pass on; the arguments are those of `Process`."""
        process = Process(name, command, environment, sink, keep_stdin=keep_stdin)
        self._running.append(process)
        self._tell_reaper(process.pid)
        for stream, pipe in process.pipes.items():
            self._selector.register(pipe, selectors.EVENT_READ, (process, stream))
        return process

    def poll(self, timeout: float) -> None:
        """Wait for output or for a process to end, and handle it.

        Args:
            timeout: seconds to wait at most.

        Raises:
            Interrupted: this process was asked to stop.
            KeyboardInterrupt: it was asked a second time.
        """
        self._step(timeout)
        if self._signals.request is not None:
            raise Interrupted(self._signals.request)

    def pass_on(self, number: signal.Signals, processes: Iterable[Process]) -> bool:
        """Pass a request to stop on to these processes, if all that live have a handler for it.

        The next request then counts as the first again. SIGTERM is not passed on so, see `ask_to_leave`.

        Args:
            number: the signal that asked.
            processes: those that should handle it.

        Returns:
            Whether it was passed on.

        Raises:
            KeyboardInterrupt: this process was asked to stop a second time.
        """
        living = _living(processes)
        if number is signal.SIGTERM or not living or not all(process.handles(number) for process in living):
            return False
        for process in living:
            os.kill(process.pid, number)  # not to its children: what happens to those is up to the process
        self._signals.forget()
        return True

    def ask_to_leave(self, processes: Iterable[Process], *, everybody: bool = True) -> bool:
        """Pass SIGTERM on to these processes, if any of them has a handler for it; it ends the others.

        The next request to this process then counts as the first again.

        Args:
            processes: those that are to leave.
            everybody: whether these are all workers of the job.

        Returns:
            Whether it was passed on.
        """
        living = _living(processes)
        if not any(process.handles(signal.SIGTERM) for process in living):
            return False
        for process in living:
            process.ask_to_leave(everybody=everybody)
        self._signals.forget()
        return True

    def stop(self, processes: Iterable[Process]) -> None:
        """End these processes and all that they started: by SIGTERM, and survivors by SIGKILL.

        Args:
            processes: those to end.

        Raises:
            KeyboardInterrupt: this process was asked to stop a second time.
        """
        living = [process for process in processes if process.returncode is None]
        for process in living:
            process.stopped = True
        for ask, seconds in (
            (Process.ask_to_end, _END_SECONDS),
            (lambda process: process.signal(signal.SIGKILL), _KILL_SECONDS),
        ):
            for process in living:
                ask(process)
            deadline = Deadline(seconds)
            while living and not deadline.passed:
                self._step(deadline.left)
                living = [process for process in living if process.returncode is None]

    def _step(self, timeout: float) -> None:
        for key, _ in self._selector.select(timeout):
            if key.data is None:
                self._signals.drain()
                self._bury_orphans()
            else:
                process, stream = key.data
                if not process.read(stream):
                    self._selector.unregister(key.fileobj)
        for process in [process for process in self._running if process.has_ended()]:
            self._bury(process)

    def _bury(self, process: Process) -> None:
        process.signal(signal.SIGKILL)  # what it left behind
        for pipe in process.pipes.values():
            if pipe in self._selector.get_map():
                self._selector.unregister(pipe)
        process.drain()
        process.reap()
        self._running.remove(process)
        self._tell_reaper(-process.pid)

    def _orphans(self) -> set[psutil.Process]:
        """Return the processes that children started and left to this one."""
        own = {self._reaper.pid, *(process.pid for process in self._running)}
        return {child for child in _children() - self._strangers if child.pid not in own}

    def _kill_orphans(self) -> set[psutil.Process]:
        """Kill the orphans and return them; theirs become orphans by that."""
        orphans = self._orphans()
        for orphan in orphans:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                orphan.kill()
        self._bury_orphans()
        return orphans

    def _bury_orphans(self) -> None:
        """Wait for those orphans that have ended, so that no zombie is left of them."""
        for orphan in self._orphans():
            with contextlib.suppress(ChildProcessError):
                os.waitpid(orphan.pid, os.WNOHANG)

    def _tell_reaper(self, group: int) -> None:
        assert self._reaper.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the reaper was killed; the other safeguards still hold
            self._reaper.stdin.write(b"%d\n" % group)


class _LeftError(Exception):
    """An orphan does not end by SIGKILL."""


def _living(processes: Iterable[Process]) -> list[Process]:
    return [process for process in processes if process.returncode is None and not process.has_ended()]


def _children() -> set[psutil.Process]:
    """Return the children of this process, as far as it can see any: a container may have no /proc."""
    try:
        return set(psutil.Process().children())
    except (psutil.Error, OSError):
        return set()


@contextlib.contextmanager
def _adopting() -> Iterator[None]:
    """Have the kernel make this process the parent of what its descendants leave behind."""
    before = ctypes.c_int()
    _prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(before))
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        _prctl(_PR_SET_CHILD_SUBREAPER, before.value)
