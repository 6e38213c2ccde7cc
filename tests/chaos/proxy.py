"""A TCP proxy between clients and one server that does harm to connections, at the byte where it is told to."""

import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from modum.box.protocol.frames import Op, parse_header
from modum.box.protocol.limits import HEADER_BYTES
from modum.box.sockets import parse_address

PIECE = 1 << 16
"""Bytes that are passed on at one time."""
SLOW = 50_000
"""Bytes a second of a throttled connection."""
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with which `close` sends a reset."""


@dataclass
class Harm:
    """What is to happen to a connection.

    Attributes:
        kind: "cut", "reset", "delay", "throttle", "half-open" or "lost answer".
        direction: "up" to the server, or "down" to the client.
        octets: bytes that pass in that direction before.
        seconds: how long a delay, a throttle or a half-open end lasts.
        outage: seconds for which the server cannot be reached from then on.
    """

    kind: str
    direction: str
    octets: int
    seconds: float
    outage: float = 0.0


class Connection:
    """Two sockets, and two threads that pass on between them.

    Args:
        proxy: whose it is.
        near: socket of the client.
        far: socket of the server.
    """

    def __init__(self, proxy: "FaultProxy", near: socket.socket, far: socket.socket) -> None:
        self._proxy = proxy
        self._near, self._far = near, far
        self._mutex = threading.Lock()
        self._ends = 0
        self._reset = False
        self._swallows_until = 0.0
        self.harm: Harm | None = None
        self.threads = [
            threading.Thread(target=self._pass_on, args=("up", near, far)),
            threading.Thread(target=self._pass_on, args=("down", far, near)),
        ]

    def end(self) -> None:
        """End both sides."""
        for side in (self._near, self._far):
            with suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)

    def reset(self) -> None:
        """End both sides with a reset."""
        for side in (self._near, self._far):
            with suppress(OSError):
                side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._reset = True
        # the reset goes out when the sockets are closed, by the last of the threads; this wakes the other one
        for side in (self._near, self._far):
            with suppress(OSError):
                side.shutdown(socket.SHUT_RD)

    def _pass_on(self, direction: str, source: socket.socket, target: socket.socket) -> None:
        waits_for_proof = direction == "down" and self._proxy.takes_an_answer()
        try:
            if waits_for_proof:
                self._lose_answer(source, target)
            else:
                while (data := source.recv(PIECE)) and self._send(direction, source, target, data):
                    pass
                self._pretend()
        except OSError:
            pass  # the other direction has ended
        with self._mutex:
            self._ends += 1
            last = self._ends == 2
        if not self._reset:
            self.end()
        if last:
            for side in (self._near, self._far):
                side.close()
            self._proxy.forget(self)

    def _send(self, direction: str, source: socket.socket, target: socket.socket, data: bytes) -> bool:
        """Pass bytes on; return whether the connection goes on."""
        if self._swallows_until:
            return time.monotonic() < self._swallows_until
        harm = self.harm
        if harm is None or harm.direction != direction:
            target.sendall(data)
            return True
        if harm.octets > len(data):
            harm.octets -= len(data)
            target.sendall(data)
            return True
        self.harm = None
        self._proxy.note(harm.kind)
        if harm.outage:
            self._proxy.note("outage")
            self._proxy.refuse(harm.outage)
        target.sendall(data[: harm.octets])
        rest = data[harm.octets :]
        match harm.kind:
            case "cut":
                return False
            case "reset":
                self.reset()
                return False
            case "delay":
                self._proxy.calm.wait(harm.seconds)
            case "throttle":
                until = time.monotonic() + harm.seconds
                while rest and time.monotonic() < until and not self._proxy.calm.is_set():
                    target.sendall(rest[: SLOW // 50])
                    rest = rest[SLOW // 50 :] or source.recv(PIECE)
                    self._proxy.calm.wait(0.02)
            case "half-open":
                # whatever comes is swallowed, in both directions, and neither side is told
                self._swallows_until = time.monotonic() + harm.seconds
                return True
        target.sendall(rest)
        return True

    def _pretend(self) -> None:
        """Where one side has ended a half-open connection, tell the other one later."""
        while (left := self._swallows_until - time.monotonic()) > 0 and not self._proxy.calm.is_set():
            self._proxy.calm.wait(left)

    def _lose_answer(self, source: socket.socket, target: socket.socket) -> None:
        """Pass the first message of the handshake on, and end the connection when the second one comes."""
        with source.makefile("rb") as stream:
            while len(start := stream.read(HEADER_BYTES)) == HEADER_BYTES:
                header = parse_header(start)
                payload = stream.read(header.payload)
                if header.op is Op.PROVE:
                    self._proxy.note("lost answer")
                    return
                target.sendall(start + payload)


class FaultProxy:
    """Stands between clients and one server.

    Args:
        server: its address.
        note: called with the kind of each harm when it is done.

    Attributes:
        address: where it listens.
        calm: set when nothing is to be held back any more.
        lost_answers: answers of the handshake that are still to be lost.
    """

    def __init__(self, server: str, note: Callable[[str], None]) -> None:
        self.note = note
        self.calm = threading.Event()
        self.lost_answers = 0
        self._refuses_until = 0.0
        self._server = parse_address(server)
        self._mutex = threading.Lock()
        self._connections: set[Connection] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._acceptor = threading.Thread(target=self._accept)
        self._acceptor.start()

    def close(self) -> None:
        """End everything."""
        self.settle()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._listener.close()
        self.cut_all()
        for connection in self.connections():
            for thread in connection.threads:
                thread.join()

    def __enter__(self) -> "FaultProxy":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def settle(self) -> None:
        """Do no more harm."""
        self._refuses_until = 0.0
        self.lost_answers = 0
        for connection in self.connections():
            connection.harm = None
        self.calm.set()

    def connections(self) -> list[Connection]:
        """Return the connections that are open."""
        with self._mutex:
            return list(self._connections)

    def cut_all(self) -> None:
        """Cut every connection now."""
        for connection in self.connections():
            connection.end()

    def refuse(self, seconds: float) -> None:
        """End all connections, and every new one for a while."""
        self._refuses_until = max(self._refuses_until, time.monotonic() + seconds)
        self.cut_all()

    def takes_an_answer(self) -> bool:
        """Return whether the answer of this handshake is to be lost."""
        with self._mutex:
            if not self.lost_answers:
                return False
            self.lost_answers -= 1
            return True

    def forget(self, connection: Connection) -> None:
        """Let go of a connection that has ended."""
        with self._mutex:
            self._connections.discard(connection)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if time.monotonic() < self._refuses_until:
                near.close()
                continue
            try:
                far = socket.create_connection(self._server, 10)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            for side in (near, far):
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(self, near, far)
            with self._mutex:
                self._connections.add(connection)
            for thread in connection.threads:
                thread.start()
