"""Slow-loris: occupy every place for strangers with handshakes that go on for ever, one byte now and then.

Stopped by `HANDSHAKE_SECONDS`, which count from a connection's beginning to the end of its handshake whatever comes
between, and by `Strangers`: when one more comes, the oldest goes.
"""

import socket
import threading
from contextlib import ExitStack

from modum.box import Box
from modum.box.protocol.frames import Header, Op
from modum.box.protocol.limits import HANDSHAKE_SECONDS, MAX_STRANGERS
from modum.errors import ModumError
from modum.waiting import Deadline
from victim import NotStoppedError, dial, run

EVERY = 0.2
"""Seconds between two bytes."""
PATIENCE = 5.0
LATE = 3.0
"""Seconds after the end of its time within which a connection must be ended."""


def attack(address: str, token: str | None) -> str:
    """Keep handshakes open, and have an honest client come beside them."""
    greeting = Header(Op.GREET, 0, 4000).pack() + b"\x81" * 4000
    with ExitStack() as stack:
        slow = [stack.enter_context(dial(address)) for _ in range(MAX_STRANGERS)]
        deadline = Deadline(HANDSHAKE_SECONDS + LATE)
        place = 0
        honest = 0
        pause = threading.Event()
        while slow and not deadline.passed:
            slow = [each for each in slow if _goes_on(each, greeting[place : place + 1])]
            place += 1
            pause.wait(EVERY)
            if place in (2, 20):
                try:
                    with Box.connect(address, token=token, transport="tcp", timeout=PATIENCE) as box:
                        honest += box.counter("slow-loris").add(1) >= 0
                except ModumError as error:
                    raise NotStoppedError(f"no place beside {len(slow)} slow handshakes: {error}") from error
        if slow:
            raise NotStoppedError(f"{len(slow)} handshakes go on after {deadline.timeout:g} s")
    return f"{honest} clients came in meanwhile, and all slow handshakes were ended within {deadline.timeout:g} s"


def _goes_on(connection: socket.socket, byte: bytes) -> bool:
    """Send a byte, and return whether the server still listens."""
    try:
        connection.sendall(byte)
        connection.setblocking(False)
        try:
            return connection.recv(1) != b""
        except BlockingIOError:
            return True
        finally:
            connection.setblocking(True)
    except OSError:
        return False


if __name__ == "__main__":
    run(attack)
