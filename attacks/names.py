"""Names without end: one client makes counters, leases and queues under ever new names, each of the longest kind.

Stopped by the server's budget: beyond some change that is free, names count as memory of the pool, whose limit holds.
"""

import secrets
import socket
from collections.abc import Callable
from contextlib import ExitStack

from modum.box import Box
from modum.box.protocol.frames import Header, Op, Status
from modum.box.protocol.limits import MAX_NAME, WINDOW
from modum.box.protocol.messages import CounterAdd, LeaseAcquire, Message, QueueOpen, encode
from victim import NotStoppedError, answer, dial, memory_of, run, shake_hands

NAMES = 20_000
"""Of each kind; a job needs some hundreds."""

KINDS: dict[str, Callable[[str], Message]] = {
    "counters": lambda name: CounterAdd(name, 1),
    "leases": lambda name: LeaseAcquire(name, 1e9, 0.0),
    "queues": lambda name: QueueOpen(name, 1),
}


def attack(address: str, token: str | None) -> str:
    """Make one after the other until the server says no."""
    prefix = f"attack-{secrets.token_hex(4)}-"
    kept = []
    with ExitStack() as stack:
        box = stack.enter_context(Box.connect(address, token=token, transport="tcp"))
        before = memory_of(box)
        for kind, make in KINDS.items():
            connection = stack.enter_context(dial(address))
            shake_hands(connection, token)
            if _all_made(connection, [make(f"{prefix}{number}".ljust(MAX_NAME, "x")) for number in range(NAMES)]):
                kept.append(f"{NAMES} {kind}")
        counted = box.statistics().servers[0].used
        if kept and not counted:
            raise NotStoppedError(f"the server keeps {', '.join(kept)}, {(memory_of(box) - before) >> 20} MiB")
    return (
        f"the server counts them: {counted >> 20} MiB of its pool are used, refused were all kinds but {kept or 'none'}"
    )


def _all_made(connection: socket.socket, requests: list[Message]) -> bool:
    """Send requests, a few at one time, and return whether all of them were granted."""
    for start in range(0, len(requests), WINDOW):
        group = requests[start : start + WINDOW]
        frames = b""
        for number, request in enumerate(group, start + 1):
            payload = encode(request)
            frames += Header(Op.CALL, number, len(payload)).pack() + payload
        connection.sendall(frames)
        answers = [answer(connection)[0] for _ in group]
        if set(answers) != {Status.OK}:
            return False
    return True


if __name__ == "__main__":
    run(attack)
