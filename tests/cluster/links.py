"""A link that lets nothing through for a while, as one that others fill does, and loses nothing."""

import contextlib
import socket
import threading
from collections.abc import Sequence
from typing import Self

from modum.box.sockets import parse_address


class HeldLink:
    """Stands between clients and one server, and holds all bytes behind the first ones that have all of `marks`.

    Attributes:
        address: where clients connect.
        holds: set once it holds.
    """

    def __init__(self, server: str, marks: Sequence[bytes]) -> None:
        self._server = parse_address(server)
        self._marks = marks
        self._open = threading.Event()
        self._open.set()
        self.holds = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._sockets: list[socket.socket] = [self._listener]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def release(self) -> None:
        """Let everything through from now on."""
        self._open.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for each in self._sockets:
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._server)
                self._sockets += [near, far]
                for source, target in ((near, far), (far, near)):
                    thread = threading.Thread(target=self._forward, args=(source, target))
                    self._threads.append(thread)
                    thread.start()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self._open.wait()
                target.sendall(data)
                if not self.holds.is_set() and all(mark in data for mark in self._marks):
                    self._open.clear()
                    self.holds.set()
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
