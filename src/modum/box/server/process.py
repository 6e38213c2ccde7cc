"""Memory servers in processes of their own, which end with the process that started them."""

import contextlib
import os
import re
import selectors
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from modum.box.server.snapshots import SnapshotSettings
from modum.box.snapshots.folder import snapshots_in
from modum.box.snapshots.manifest import read_manifest
from modum.box.sockets import format_address
from modum.errors import ModumError, SnapshotError
from modum.units import count
from modum.waiting import Deadline

__all__ = [
    "NEVER",
    "START_SECONDS",
    "ServerProcesses",
    "check_servers",
    "ready_address",
    "ready_line",
    "server_command",
]

START_SECONDS: Final = 60.0
"""How long a memory server may take to be ready: Python has to start, and a busy machine is slow."""
NEVER: Final = "never"
"""Says on a server's command line that it writes snapshots only when it is asked to."""
_STOP_SECONDS: Final = 5.0
_READY: Final = re.compile(r"modum server listening on (\S+)")


def server_command(
    memory: int,
    host: str = "127.0.0.1",
    *,
    port: int = 0,
    replicas: Sequence[str] = (),
    index: int = 0,
    snapshots: SnapshotSettings | None = None,
    restore: Path | None = None,
    encrypt: bool = False,
) -> list[str]:
    """Return the command of a memory server that stops when its standard input ends.

    Args:
        memory: bytes that buffers may take.
        host: address on which it listens.
        port: on which it listens; 0 has it choose one.
        replicas: addresses of the servers that stand in for each other, of which it is one; empty: nobody does.
        index: its number among the servers that share `snapshots.folder`.
        snapshots: where and when all of them write snapshots.
        restore: the folder of these servers' snapshots with which to begin.
        encrypt: whether it takes only encrypted connections from other hosts.

    Returns:
        The program and its arguments.
    """
    # -P: a file in the working directory must not stand in for a module of the same name.
    server = [sys.executable, "-P", "-m", "modum", "server", "--host", host, "--port", str(port)]
    server += ["--memory", str(memory), "--stop-with-stdin"]
    if encrypt:
        server.append("--encrypt")
    if replicas:
        server += ["--replicas", "2", "--box", ",".join(replicas)]
    if snapshots is not None:
        server += ["--snapshot-dir", str(snapshots.folder), "--snapshots-kept", str(snapshots.kept)]
        server += ["--snapshot-every", NEVER if snapshots.every is None else f"{snapshots.every:f}s"]
    if restore is not None:
        server += ["--restore", str(restore)]
    if snapshots is not None or restore is not None:
        server += ["--snapshot-name", _snapshot_name(index)]
    return server


def check_servers(restore: Path, servers: int) -> None:
    """Check that snapshots are those of as many servers as are to be restored.

    Args:
        restore: the folder of all servers' snapshots.
        servers: how many are to be restored.

    Raises:
        ValueError: they are of another number of servers.
    """
    for snapshot in reversed(snapshots_in(restore / _snapshot_name(0))):
        try:
            place = read_manifest(snapshot).place
        except SnapshotError:
            continue  # the server says so, when it comes to this one
        if place is not None and place.servers != servers:
            raise ValueError(
                f"the snapshots in {restore} are of {count(place.servers, 'memory server')}, not of {servers}\n"
                f"HINT: --servers {place.servers}"
            )
        return


def _snapshot_name(index: int) -> str:
    return f"server-{index}"


def ready_line(address: str) -> str:
    """Return the line by which a memory server says on its standard output that it is ready."""
    return f"modum server listening on {address}"


def ready_address(line: str) -> str | None:
    """Return the address in a server's `ready_line`; None for any other line."""
    match = _READY.fullmatch(line)
    return match[1] if match else None


class ServerProcesses:
    """Memory servers that run until they are closed, or this process ends, in whatever way.

    The kernel closes the pipe that is their standard input then. Signals of a terminal do not reach them.

    Args:
        memory: bytes that each may hold.
        count: how many to start, at one time.
        host: address on which they listen; they choose their ports.
        environment: theirs, with the token; None: as this process's.
        encrypt: whether they take only encrypted connections from other hosts; their addresses say so.
        replicas: ports of servers that stand in for each other, in place of `count`; empty: nobody stands in.
        timeout: seconds that they may take to be ready.

    Attributes:
        addresses: `host:port` of each.
        pids: their process ids.

    Raises:
        ModumError: one did not start; none runs then.
    """

    def __init__(
        self,
        memory: int,
        *,
        count: int = 1,
        host: str = "127.0.0.1",
        environment: Mapping[str, str] | None = None,
        encrypt: bool = False,
        replicas: Sequence[int] = (),
        timeout: float = START_SECONDS,
    ) -> None:
        self._servers: list[subprocess.Popen[str]] = []
        # a forked child (a loader of data, say) must not keep the servers alive
        let_go = weakref.WeakMethod(self._let_go)
        os.register_at_fork(after_in_child=lambda: (method := let_go()) and method())
        try:
            box = [format_address(host, port, encrypted=encrypt) for port in replicas]
            for port in replicas or [0] * count:
                server = subprocess.Popen(
                    server_command(memory, host, port=port, replicas=box, encrypt=encrypt),
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    start_new_session=True,
                )
                self._servers.append(server)
            deadline = Deadline(timeout)
            self.addresses = [_ready(server, deadline) for server in self._servers]
            self.pids = [server.pid for server in self._servers]
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _let_go(self) -> None:
        for server in self._servers:
            for pipe in (server.stdin, server.stdout):
                assert pipe is not None
                pipe.close()


def _ready(server: "subprocess.Popen[str]", deadline: Deadline) -> str:
    """Return the address that a memory server says it listens on."""
    assert server.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(server.stdout, selectors.EVENT_READ)
        if not selector.select(deadline.left):
            raise ModumError(f"a memory server (pid {server.pid}) was not ready after {deadline.timeout:.0f} s")
    address = ready_address(server.stdout.readline().rstrip("\n"))
    if address is None:
        raise ModumError(f"a memory server ended with status {server.wait()} before it was ready: see its error above")
    return address
