"""Many slots: one client opens all the slots that it may, and sends the largest requests in each.

Each slot keeps four rooms of 1 MiB. Stopped by a limit on what all of them keep together; it refuses a request, and the
clients that are there already go on.
"""

import secrets
from contextlib import ExitStack

from modum.box import Box
from modum.box.protocol.frames import LAST, Header, Op, Status
from modum.box.protocol.limits import CHUNK, MAX_SLOTS, MIN_WORKING, SESSION_BYTES, WINDOW
from modum.box.protocol.messages import Failure, Open, SegmentInfo, decode
from modum.box.sockets import send_frame
from modum.errors import ModumError, PoolFullError
from victim import ENOUGH, answer, ask, check_memory, dial, memory_of, run, shake_hands

SESSIONS = 2


def attack(address: str, token: str | None) -> str:
    """Fill every room of every slot."""
    with ExitStack() as stack:
        box = stack.enter_context(Box.connect(address, token=token, transport="tcp"))
        name = f"attack-{secrets.token_hex(4)}"
        buffer = box.create(name, CHUNK // 4)
        stack.callback(box.delete, name)
        with dial(address) as connection:
            shake_hands(connection, token)
            segment = decode(ask(connection, 1, Open(name))[1], SegmentInfo).segment
        before = memory_of(box)
        opened = 0
        payload = bytes(CHUNK)
        for _ in range(SESSIONS):
            session = secrets.token_bytes(SESSION_BYTES)
            for slot in range(MAX_SLOTS):
                connection = stack.enter_context(dial(address))
                try:
                    shake_hands(connection, token, session, slot)
                    for number in range(1, WINDOW + 1):
                        header = Header(Op.ADD, number, CHUNK, LAST, segment=segment, factor=1.0, count=CHUNK)
                        send_frame(connection, header, payload)
                        status, reply = answer(connection)
                        if status is Status.REFUSED:
                            raise PoolFullError(decode(reply, Failure).message)
                except (ModumError, OSError) as error:
                    check_memory(box, before, f"{opened} slots of its clients", MIN_WORKING + ENOUGH)
                    return f"after {opened} slots: {error}"
                opened += 1
                if not opened % 16:
                    check_memory(box, before, f"{opened} slots of its clients", MIN_WORKING + ENOUGH)
        buffer.close()
    return f"{opened} slots with {WINDOW} MiB each take less than the limit"


if __name__ == "__main__":
    run(attack)
