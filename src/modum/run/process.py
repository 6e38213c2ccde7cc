"""A child process whose output is passed on line by line, and that cannot outlive this process."""

import contextlib
import ctypes
import os
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Final, Literal

from modum.cluster.preemption import NOTICE_VARIABLE, Notice, Request

__all__ = ["LineSplitter", "Process", "Sink", "Stream"]

Stream = Literal["stdout", "stderr"]
Sink = Callable[[Stream, list[str]], None]
"""Takes lines of one process's output as they come."""

_READ_BYTES: Final = 2**16
_PIPE_BYTES: Final = 2**20
"""The most that a pipe holds (/proc/sys/fs/pipe-max-size), so that one read of this size empties it."""
_LONGEST_LINE: Final = 2**16
"""Bytes after which an unfinished line is passed on as it is, so that no output can fill the memory."""
_TAIL_LINES: Final = 40

_PR_SET_PDEATHSIG: Final = 1
_prctl = ctypes.CDLL(None).prctl


class Process:
    """A child process, the leader of its own session and process group.

    Args:
        name: its name in messages.
        command: the command to run.
        environment: its environment variables; the one that names its `Notice` comes in addition.
        sink: receives its output.
        keep_stdin: whether its standard input stays open, and silent, while this process lives; else it is empty.

    Attributes:
        returncode: as in `subprocess`: the exit code, or minus the signal it died of; None until it ended.
        stopped: whether this process told it to stop, so that its end is not a failure.
        tail: the last lines that it wrote to its standard error.
        pid: its process id, and that of its process group.
        pipes: its output pipes, to wait on.
    """

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
        self.stopped = False
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._sink = sink
        self._notice = Notice()
        launcher = os.getpid()

        def tie_to_launcher() -> None:
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            # Python then installs no handler of its own: any handler is the script's, see `handles`
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            if os.getppid() != launcher:  # it died before the line above
                os._exit(1)

        self._popen = subprocess.Popen(
            command,
            env={**environment, NOTICE_VARIABLE: self._notice.path},
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
        """Its exit status as a shell reports it: the exit code, or 128 + the signal it died of."""
        assert self.returncode is not None
        return self.returncode if self.returncode >= 0 else 128 - self.returncode

    @property
    def end(self) -> str:
        """A description of how it ended."""
        assert self.returncode is not None
        if self.returncode >= 0:
            return f"exited with code {self.returncode}"
        return f"was killed by {signal.Signals(-self.returncode).name} (signal {-self.returncode})"

    def read(self, stream: Stream) -> bool:
        """Pass on some of what it wrote; return False once there is no more to come."""
        data = self._read(stream, _READ_BYTES)
        if data:
            self._pass_on(stream, self._lines[stream].feed(data))
        return data != b""

    def drain(self) -> None:
        """Pass on all that is left, including an unfinished line; call it after the process has ended."""
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

    def ask_to_leave(self, *, everybody: bool = True) -> None:
        """Send SIGTERM to it, and not to its children: what happens to those is up to it.

        Args:
            everybody: whether all workers of the job leave, so that it waits for the others' last exchanges.
        """
        if everybody:
            self._notice.say(Request.LEAVE)
        os.kill(self.pid, signal.SIGTERM)

    def ask_to_end(self) -> None:
        """Close its standard input, where that was kept, and send SIGTERM to it and to all that it started."""
        self._notice.say(Request.END)
        if self._popen.stdin is not None:
            self._popen.stdin.close()
        self.signal(signal.SIGTERM)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it and to all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def has_ended(self) -> bool:
        """Return whether it has ended. It is not reaped, so that its process group's number cannot be reused."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def reap(self, timeout: float | None = None) -> None:
        """Kill what it left behind, wait for its end and close its pipes.

        Args:
            timeout: seconds to wait for its end; None: no limit.

        Raises:
            subprocess.TimeoutExpired: it did not end in time, which only a hung disk or driver can cause.
        """
        self.signal(signal.SIGKILL)
        with self._popen:  # closes the pipes
            self.returncode = self._popen.wait(timeout)
        self._notice.close()


class LineSplitter:
    r"""Makes lines of text from the pieces of a child's output; invalid UTF-8 becomes replacement characters.

    If a line was rewritten in place (`\r`, as progress bars do), its last form is kept.
    """

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[str]:
        """Return the lines that `data` completes, without their ends."""
        self._rest += data
        end = self._rest.rfind(b"\n") + 1
        if len(self._rest) - end > _LONGEST_LINE:
            end = len(self._rest)
        complete, self._rest = self._rest[:end], self._rest[end:]
        return [_text(line) for line in complete.removesuffix(b"\n").split(b"\n")] if complete else []

    def finish(self) -> list[str]:
        """Return the unfinished last line, if any."""
        rest, self._rest = self._rest, bytearray()
        return [_text(rest)] if rest else []


def _text(line: bytes | bytearray) -> str:
    return line.decode(errors="replace").rstrip("\r").rpartition("\r")[2]
