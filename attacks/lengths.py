"""Forged lengths: announce gigabytes, in the header and inside of messages, and send nothing of them.

Stopped by limits that are checked before anything is taken (`MAX_GREETING`, `MAX_MESSAGE`, `CHUNK` in `parse_header`),
and by msgspec, which takes no memory for elements that are not there.
"""

import struct
import time

from modum.box import Box
from modum.box.protocol.frames import Header, Op, Status
from modum.box.protocol.limits import CHUNK
from modum.errors import ModumError
from victim import NotStoppedError, answer, check_memory, dial, memory_of, run, shake_hands

HUGE = 2**32 - 1
AT_ONCE = 2.0
"""Seconds within which what is forged must be refused: nobody waits for the bytes."""


def attack(address: str, token: str | None) -> str:
    """Forge every length that there is."""
    join = b"\x84\xa4type\xa4Join\xa7servers"
    messages = {
        "a list of 4 billion": join + b"\xdd" + struct.pack(">I", HUGE),
        "a text of 4 GiB": join + b"\x91\xdb" + struct.pack(">I", HUGE),
        "a map of 4 billion": b"\xdf" + struct.pack(">I", HUGE),
        "bytes of 4 GiB": b"\x81\xa4type\xc6" + struct.pack(">I", HUGE),
        "a list in a list, 10,000 deep": b"\x91" * 10_000,
    }
    frames = {
        "a greeting of 4 GiB": (False, Header(Op.GREET, 0, HUGE).pack()),
        "a greeting of 4 KiB and one": (False, Header(Op.GREET, 0, 4097).pack()),
        "a message of 4 GiB": (True, Header(Op.CALL, 1, HUGE).pack()),
        "an addition of 4 GiB": (True, Header(Op.ADD, 1, HUGE, segment=1, count=HUGE).pack()),
        "a chunk whose payload is longer": (True, Header(Op.ADD, 1, CHUNK, segment=1, count=4).pack()),
        "a chunk beyond the end of numbers": (True, Header(Op.READ, 1, segment=1, offset=2**64 - 4, count=8).pack()),
        **{name: (True, Header(Op.CALL, 1, len(data)).pack() + data) for name, data in messages.items()},
    }
    with Box.connect(address, token=token, transport="tcp") as box:
        before = memory_of(box)
        for name, (known, data) in frames.items():
            with dial(address) as connection:
                if known:
                    shake_hands(connection, token)
                start = time.monotonic()
                connection.sendall(data)
                try:
                    status, _ = answer(connection)
                except (ModumError, OSError):
                    status = Status.REFUSED
                if status is not Status.REFUSED or time.monotonic() - start > AT_ONCE:
                    raise NotStoppedError(f"{name} was not refused at once")
            check_memory(box, before, name)
    return f"{len(frames)} forged lengths were refused at once"


if __name__ == "__main__":
    run(attack)
