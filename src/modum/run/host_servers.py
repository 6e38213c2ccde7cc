"""The memory servers that a worker runs for its host, for as long as itself lives."""

import contextlib
import os
import selectors
import subprocess
import time
import weakref
from typing import Final

from modum.errors import ModumError
from modum.run.children import ready_address, server_command, server_environment

__all__ = ["HostServers"]

_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 5.0


class HostServers:
    """`count` memory servers of `memory` bytes each that listen on the address `host`.

    They stop when they are closed, and when this process ends, in whatever way: the kernel closes the pipe that
    is their standard input. Signals of a terminal do not reach them.

    Raises:
        ModumError: one did not start.
    """

    def __init__(self, count: int, memory: int, host: str, token: str) -> None:
        self._servers = [
            subprocess.Popen(
                server_command(memory, host),
                env=server_environment(token),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            for _ in range(count)
        ]
        # a forked child (a loader of data, say) must not keep the servers alive
        let_go = weakref.WeakMethod(self._let_go)
        os.register_at_fork(after_in_child=lambda: (method := let_go()) and method())
        try:
            deadline = time.monotonic() + _START_SECONDS
            self.addresses = [_ready(server, deadline) for server in self._servers]
        except BaseException:
            self.close()
            raise

    def finish(self) -> None:
        """Stop them once their clients have said goodbye, which all are about to do."""
        for server in self._servers:
            assert server.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                server.stdin.write("\n")
                server.stdin.flush()
        for server in self._servers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(2 * _STOP_SECONDS)
        self.close()

    def close(self) -> None:
        """Stop them at once and wait for their end. Does nothing the second time."""
        for server in self._servers:
            assert server.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                server.stdin.close()
        for server in self._servers:
            try:
                server.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
            assert server.stdout is not None
            server.stdout.close()
        self._servers = []

    def _let_go(self) -> None:
        for server in self._servers:
            for pipe in (server.stdin, server.stdout):
                assert pipe is not None
                pipe.close()


def _ready(server: "subprocess.Popen[str]", deadline: float) -> str:
    """The address that a memory server says it listens on."""
    assert server.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(server.stdout, selectors.EVENT_READ)
        if not selector.select(max(0.0, deadline - time.monotonic())):
            raise ModumError(f"a memory server (pid {server.pid}) was not ready after {_START_SECONDS:.0f} s")
    address = ready_address(server.stdout.readline().rstrip("\n"))
    if address is None:
        raise ModumError(f"a memory server ended with status {server.wait()} before it was ready: see its error above")
    return address
