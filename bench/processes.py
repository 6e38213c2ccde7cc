"""The processes that take part: memory servers, peers and workers. All end with the `with` that started them."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from modum.box.server.process import ServerProcesses

ROOT = Path(__file__).resolve().parent.parent
_TIMEOUT = 20.0  # seconds for a process to end once its input has ended


class PeerError(RuntimeError):
    """A process that takes part has failed."""


class Peer:
    """A process that prints `ready`, and then answers every line on its standard input with one line."""

    def __init__(self, name: str, command: list[str]) -> None:
        self._name = name
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    def tell(self, line: str = "go") -> None:
        """Give it something to do; `answer` has what comes of it."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        """The next line that it prints.

        Raises:
            PeerError: it has ended instead; what it said of the reason stands on standard error.
        """
        assert self.process.stdout is not None
        if line := self.process.stdout.readline().strip():
            return line
        raise PeerError(f"{self._name} has ended with status {self.process.wait(_TIMEOUT)}")

    def ask(self, line: str = "go") -> str:
        """`tell`, then `answer`."""
        self.tell(line)
        return self.answer()

    def close(self) -> None:
        """End its input and wait for it; kill it if it does not end."""
        with self.process:
            assert self.process.stdin is not None
            try:
                self.process.stdin.close()
                self.process.wait(_TIMEOUT)
            except (BrokenPipeError, subprocess.TimeoutExpired):
                self.process.kill()


@contextmanager
def peer(name: str, *arguments: object, launcher: tuple[str, ...] = ()) -> Iterator[Peer]:
    """Run `bench/peers/NAME.py`, by way of `launcher` if there is one, until it is ready."""
    command = [*launcher, sys.executable, "-m", f"bench.peers.{name}", *map(str, arguments)]
    process = Peer(name, command)
    try:
        if (greeting := process.answer()) != "ready":
            raise PeerError(f"{name} printed {greeting!r} instead of 'ready'")
        yield process
    finally:
        process.close()


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """A memory server in a process of its own."""

    address: str
    pid: int


@contextmanager
def memory_server() -> Iterator[ServerProcess]:
    """Run `modum server` on a free port."""
    with ServerProcesses(8 << 30) as servers:
        yield ServerProcess(servers.addresses[0], servers.pids[0])
