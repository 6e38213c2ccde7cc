"""A TCP proxy that understands frames and cuts a connection at a chosen byte of a chosen one."""

import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass

from modum.box.protocol.frames import Op, parse_header
from modum.box.protocol.limits import HEADER_BYTES
from modum.box.sockets import parse_address

HANDSHAKE = (Op.GREET, Op.PROVE)


@dataclass(frozen=True)
class Cut:
    """Where: in the requests ("up") or the replies ("down"), in frame `frame` after the handshakes, after `octets`.

    The frames are counted over all connections; `octets` beyond the end of a frame cut right behind it.
    """

    direction: str
    frame: int
    octets: int


class CuttingProxy:
    """Stands between clients and one server. Every cut is made once.

    `before_reconnect` is called before every connection to the server but the first.
    """

    def __init__(self, server: str, cuts: list[Cut], before_reconnect: Callable[[], None] = lambda: None) -> None:
        self._server = parse_address(server)
        self._before_reconnect = before_reconnect
        self.left = list(cuts)
        self._counts = {"up": 0, "down": 0}
        self._mutex = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> "CuttingProxy":
        return self

    def __exit__(self, *exception: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for pair in self._pairs:
            self._hang_up(pair)
        for thread in self._threads:
            thread.join()
        for side in [self._listener, *(side for pair in self._pairs for side in pair)]:
            side.close()

    def cut_all(self) -> None:
        """Cut every connection now."""
        for pair in self._pairs:
            self._hang_up(pair)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self._pairs:
                self._before_reconnect()
            pair = (near, socket.create_connection(self._server))
            self._pairs.append(pair)
            for direction, (source, target) in (("up", pair), ("down", pair[::-1])):
                thread = threading.Thread(target=self._forward, args=(direction, source, target, pair))
                self._threads.append(thread)
                thread.start()

    def _forward(
        self, direction: str, source: socket.socket, target: socket.socket, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        try:
            with source.makefile("rb") as stream:
                while len(start := stream.read(HEADER_BYTES)) == HEADER_BYTES:
                    header = parse_header(start)
                    frame = start + stream.read(header.payload)
                    cut = None if header.op in HANDSHAKE else self._next(direction)
                    target.sendall(frame if cut is None else frame[: cut.octets])
                    if cut:
                        break
        except OSError:
            pass  # the other direction was cut
        self._hang_up(pair)

    def _next(self, direction: str) -> Cut | None:
        with self._mutex:
            number = self._counts[direction]
            self._counts[direction] += 1
            for cut in self.left:
                if (cut.direction, cut.frame) == (direction, number):
                    self.left.remove(cut)
                    return cut
        return None

    @staticmethod
    def _hang_up(pair: tuple[socket.socket, socket.socket]) -> None:
        for side in pair:
            try:
                side.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
