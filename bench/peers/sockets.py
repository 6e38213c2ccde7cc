"""One end of plain sockets: as many bytes out as in, at the same time, by two plain threads.

    python -m bench.peers.sockets PORT NBYTES

The other end is `bench.tcp`, in the process that measures.
"""

import socket
import sys
import threading

BLOCK = 1 << 20
"""Bytes in one call."""


def both_ways(connection: socket.socket, out: memoryview, into: memoryview) -> None:
    """Send all of `out` from a second thread while receiving all of `into` on this one."""

    def send() -> None:
        for start in range(0, len(out), BLOCK):
            connection.sendall(out[start : start + BLOCK])

    sender = threading.Thread(target=send)
    sender.start()
    done = 0
    while done < len(into):
        count = connection.recv_into(into[done : done + BLOCK])
        if not count:
            raise ConnectionError("the other end has closed the connection")
        done += count
    sender.join()


def main(port: int, nbytes: int) -> None:
    """Connect, then move the bytes once a line, without measuring."""
    out, into = memoryview(bytearray(nbytes)), memoryview(bytearray(nbytes))
    with socket.create_connection(("127.0.0.1", port)) as connection:
        print("ready", flush=True)
        for _ in sys.stdin:
            both_ways(connection, out, into)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
