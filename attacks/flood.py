"""Flood: connect as fast as possible, say nothing, hold every connection; whoever belongs there must still come in.

Stopped by `Strangers`: 64 connections may be in the handshake, each for 10 seconds, and for one more the oldest goes,
of the address that has most. Whoever comes to shake hands needs milliseconds.
"""

import socket
import threading
import time
from contextlib import suppress

from modum.box import Box
from modum.errors import ModumError
from victim import NotStoppedError, dial, run

FLOODERS = 4
HELD = 400
"""Connections that each flooder holds: fewer than the descriptors of a process."""
HONEST = 10
PATIENCE = 10.0


def attack(address: str, token: str | None) -> str:
    """Flood the server, and have honest clients come beside it."""
    enough = threading.Event()
    made = [0] * FLOODERS

    def flood(index: int) -> None:
        held: list[socket.socket] = []
        while not enough.is_set():
            with suppress(OSError):
                held.append(dial(address))
                made[index] += 1
            if len(held) > HELD:
                held.pop(0).close()
        for connection in held:
            connection.close()

    threads = [threading.Thread(target=flood, args=(index,)) for index in range(FLOODERS)]
    for thread in threads:
        thread.start()
    slowest = 0.0
    try:
        time.sleep(0.5)
        for number in range(HONEST):
            start = time.monotonic()
            try:
                with Box.connect(address, token=token, transport="tcp", timeout=PATIENCE) as box:
                    box.counter("flood").add(1)
            except ModumError as error:
                raise NotStoppedError(f"beside {sum(made)} silent connections, client {number}: {error}") from error
            slowest = max(slowest, time.monotonic() - start)
    finally:
        enough.set()
        for thread in threads:
            thread.join()
    return f"{HONEST} clients came in beside {sum(made)} silent connections, the slowest in {slowest:.2f} s"


if __name__ == "__main__":
    run(attack)
