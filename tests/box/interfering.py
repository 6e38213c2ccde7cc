"""A TCP proxy that does to bytes what somebody on the way between two hosts could do."""

import socket
import threading
from dataclasses import dataclass
from typing import Literal

from modum.box.sockets import format_address, parse_address

BLOCK = 4096


@dataclass(frozen=True)
class Interference:
    """What happens to the block of bytes that begins at `offset` of a connection, in one direction."""

    direction: Literal["up", "down"]
    what: Literal["change", "replay", "drop", "reorder", "truncate"]
    offset: int


class InterferingProxy:
    """Stands between clients and one server, and interferes with the first `times` connections that get so far.

    Attributes:
        address: for clients.
        seen: all bytes that crossed.
        left: how often it will interfere still.
    """

    def __init__(self, server: str, interference: Interference | None = None, *, times: int = 1) -> None:
        self._server = parse_address(server)
        self._interference = interference
        self.left = times
        self.seen = bytearray()
        self._mutex = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = format_address(
            "127.0.0.1", self._listener.getsockname()[1], encrypted=server.startswith("encrypt")
        )
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> "InterferingProxy":
        return self

    def __exit__(self, *exception: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        for side in self._sockets:
            _hang_up(side)
        for thread in self._threads:
            thread.join()
        for side in [self._listener, *self._sockets]:
            side.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(self._server)
            self._sockets += [near, far]
            for direction, source, target in (("up", near, far), ("down", far, near)):
                thread = threading.Thread(target=self._forward, args=(direction, source, target))
                self._threads.append(thread)
                thread.start()

    def _forward(self, direction: str, source: socket.socket, target: socket.socket) -> None:
        try:
            plan = self._interference
            if plan is not None and plan.direction == direction and self._pass_on(source, target, plan.offset):
                first = _exactly(source, BLOCK)
                with self._mutex:
                    mine = self.left > 0 and len(first) == BLOCK
                    self.left -= mine
                if mine:
                    self._interfere(plan, first, source, target)
                else:
                    target.sendall(first)
            self._pass_on(source, target, None)
        except OSError:
            pass  # the other direction has ended
        for side in (source, target):
            _hang_up(side)

    def _interfere(self, plan: Interference, first: bytes, source: socket.socket, target: socket.socket) -> None:
        if plan.what == "change":
            target.sendall(first[:-1] + bytes([first[-1] ^ 1]))
        elif plan.what == "replay":
            target.sendall(first + first)
        elif plan.what == "reorder":
            target.sendall(_exactly(source, BLOCK) + first)
        elif plan.what == "truncate":
            target.sendall(first[:100])
            raise ConnectionAbortedError

    def _pass_on(self, source: socket.socket, target: socket.socket, count: int | None) -> bool:
        """Forward so many bytes, or all; return whether there are more."""
        done = 0
        while count is None or done < count:
            data = source.recv(65536 if count is None else min(65536, count - done))
            if not data:
                return False
            self.seen += data
            target.sendall(data)
            done += len(data)
        return True


def _exactly(source: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (more := source.recv(count - len(data))):
        data += more
    return data


def _hang_up(side: socket.socket) -> None:
    try:
        side.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
