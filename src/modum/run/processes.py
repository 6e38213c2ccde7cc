"""Child processes that are watched, and that cannot outlive this process."""

import contextlib
import ctypes
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, Self

from modum.run import reaper
from modum.run.lines import LineSplitter
from modum.run.signals import Signals

__all__ = ["Interrupted", "Process", "Processes", "Sink", "Stream"]

Stream = Literal["stdout", "stderr"]
Sink = Callable[[Stream, list[str]], None]
"""Takes lines of one process's output as they come."""

_GRACE_SECONDS = 0.6
"""From SIGTERM to SIGKILL: a stop takes less than a second in all."""
_KILL_SECONDS = 5.0
"""How long to wait for an end by SIGKILL: only a hung disk or driver can delay it."""
_READ_BYTES = 2**16
_PIPE_BYTES = 2**20
"""The most that a pipe holds (/proc/sys/fs/pipe-max-size), so that one read of this size empties it."""
_TAIL_LINES = 40

_PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None).prctl


class Interrupted(Exception):  # noqa: N818 - no error, as KeyboardInterrupt is none
    """This process was asked to stop."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(f"stopped by {number.name}")
        self.number = number
        self.status = 128 + number
        """The exit status that a shell expects of a process that a signal ended."""


class Process:
    """One child, the leader of a session and process group of its own."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        sink: Sink,
        *,
        keep_stdin: bool,
    ) -> None:
        self.name = name
        self.returncode: int | None = None
        """As in `subprocess`: the exit code, or minus the signal it died of; None until it ended."""
        self.stopped = False
        """Whether it was told to stop from here, so that its end is not a failure of its own."""
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)
        """The last lines that it wrote to its standard error."""
        self._sink = sink
        launcher = os.getpid()

        def tie_to_launcher() -> None:
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            # Python then installs no handler of its own: one that is there is the script's, see `handles`
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            if os.getppid() != launcher:  # it died before the line above
                os._exit(1)

        self._popen = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE if keep_stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
            preexec_fn=tie_to_launcher,
        )
        self.pid = self._popen.pid
        assert self._popen.stdout is not None
        assert self._popen.stderr is not None
        self.pipes: dict[Stream, IO[bytes]] = {"stdout": self._popen.stdout, "stderr": self._popen.stderr}
        self._lines: dict[Stream, LineSplitter] = {stream: LineSplitter() for stream in self.pipes}
        for pipe in self.pipes.values():
            os.set_blocking(pipe.fileno(), False)

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})"

    @property
    def status(self) -> int:
        """Its exit status as a shell says it: the exit code, or 128 + the signal it died of."""
        assert self.returncode is not None
        return self.returncode if self.returncode >= 0 else 128 - self.returncode

    @property
    def end(self) -> str:
        """How it ended, in words."""
        assert self.returncode is not None
        if self.returncode >= 0:
            return f"exited with code {self.returncode}"
        return f"was killed by {signal.Signals(-self.returncode).name} (signal {-self.returncode})"

    def read(self, stream: Stream) -> bool:
        """Pass on some of what it wrote; False once there is nothing more to come."""
        data = self._read(stream, _READ_BYTES)
        if data:
            self._pass_on(stream, self._lines[stream].feed(data))
        return data != b""

    def drain(self) -> None:
        """Pass on all that is left, a line without an end too; for after its end."""
        for stream, lines in self._lines.items():
            self._pass_on(stream, lines.feed(self._read(stream, _PIPE_BYTES) or b"") + lines.finish())

    def _read(self, stream: Stream, size: int) -> bytes | None:
        try:
            return os.read(self.pipes[stream].fileno(), size)
        except BlockingIOError:
            return None

    def _pass_on(self, stream: Stream, lines: list[str]) -> None:
        if lines:
            if stream == "stderr":
                self.tail.extend(lines)
            self._sink(stream, lines)

    def handles(self, number: signal.Signals) -> bool:
        """Return whether it has installed a handler for this signal."""
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{self.pid}/status").read_text()
            caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
            return bool(int(caught.split()[1], 16) >> (number - 1) & 1)
        return False

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it and to whatever it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def has_ended(self) -> bool:
        """Return whether it ended, without reaping it: nobody else can get its process group's number."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def reap(self, timeout: float | None = None) -> None:
        """Kill whatever it left behind, wait for its end and close its pipes."""
        self.signal(signal.SIGKILL)
        with self._popen:  # closes the pipes
            self.returncode = self._popen.wait(timeout)


class Processes:
    """The children of one launcher; a context manager that leaves none behind, whatever happens inside.

    On leaving, those that still run are killed at once. If this process itself is killed, by SIGKILL too, the
    kernel kills the children and a guard process kills whatever they had started.

    Needs the main thread, for the signals, and children are to be started before any thread is: between fork
    and exec a child runs a few lines of Python.
    """

    def __init__(self) -> None:
        self._running: list[Process] = []
        self._signals = Signals()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._signals)
            self._selector = stack.enter_context(selectors.DefaultSelector())
            self._selector.register(self._signals, selectors.EVENT_READ, None)
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", reaper.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                start_new_session=True,
            )
            stack.enter_context(self._guard)  # on leaving, ends its input and waits for it
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._stack:
            for process in self._running:
                process.signal(signal.SIGKILL)
            for process in self._running:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.reap(_KILL_SECONDS)

    def start(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        sink: Sink,
        *,
        keep_stdin: bool = False,
    ) -> Process:
        """Start `command` with exactly this environment; `poll` and `stop` pass its output to `sink`.

        Its standard input is empty, or with `keep_stdin` open, and silent, for as long as this process lives.
        """
        process = Process(name, command, environment, sink, keep_stdin=keep_stdin)
        self._running.append(process)
        self._tell_guard(process.pid)
        for stream, pipe in process.pipes.items():
            self._selector.register(pipe, selectors.EVENT_READ, (process, stream))
        return process

    def poll(self, timeout: float) -> None:
        """Wait for output or for a process to end, `timeout` seconds at most, and take note of it.

        Raises `Interrupted` once this process was asked to stop.
        """
        self._step(timeout)
        if self._signals.request is not None:
            raise Interrupted(self._signals.request)

    def pass_on(self, number: signal.Signals, processes: Iterable[Process]) -> bool:
        """Hand a request to stop over to these processes, if all that live have a handler for it; returns whether.

        The next request is a first one again then. SIGTERM always means to stop.
        """
        living = [process for process in processes if process.returncode is None and not process.has_ended()]
        if number is signal.SIGTERM or not living or not all(process.handles(number) for process in living):
            return False
        for process in living:
            os.kill(process.pid, number)  # not to what it started: the process knows what is to happen to that
        self._signals.forget()
        return True

    def stop(self, processes: Iterable[Process]) -> None:
        """End these processes and all that they started: by SIGTERM, and those that stay by SIGKILL."""
        living = [process for process in processes if process.returncode is None]
        for process in living:
            process.stopped = True
        for number, seconds in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, _KILL_SECONDS)):
            for process in living:
                process.signal(number)
            deadline = time.monotonic() + seconds
            while living and (left := deadline - time.monotonic()) > 0:
                self._step(left)
                living = [process for process in living if process.returncode is None]

    def _step(self, timeout: float) -> None:
        for key, _ in self._selector.select(timeout):
            if key.data is None:
                self._signals.drain()
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
        self._tell_guard(-process.pid)

    def _tell_guard(self, group: int) -> None:
        assert self._guard.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # somebody killed it; the rest of the net still holds
            self._guard.stdin.write(b"%d\n" % group)
