"""Poison: one client leaves bytes that are no msgpack, or lists 100,000 deep, as a value and as the `meta` of a buffer.

Whoever reads the value must get an error of Modum's, and who lists buffers the others.

Stopped by the server, which refuses a `meta` that it cannot read, and by `decode`, which makes a `ProtocolError` of
whatever cannot be read.
"""

import secrets

from modum.box import Box
from modum.box.protocol.frames import Status
from modum.box.protocol.messages import Create, Delete, Doom, ValuePut, decode
from modum.errors import ModumError
from victim import NotStoppedError, ask, dial, run, shake_hands

POISONS = {"no msgpack": b"\xc1\xc1", "a deep list": b"\x91" * 100_000 + b"\x90", "half a message": b"\x92\x01"}


def attack(address: str, token: str | None) -> str:
    """Leave each poison, and have an honest client come upon it."""
    harm = []
    with Box.connect(address, token=token, transport="tcp", timeout=10) as box, dial(address) as connection:
        shake_hands(connection, token)
        sequence = 0
        for what, poison in POISONS.items():
            name = f"attack-{secrets.token_hex(4)}"
            for request in (ValuePut(name, poison), Create(name, [1], "float32", 4, 4, poison)):
                sequence += 1
                status, _ = ask(connection, sequence, request)
                if status is not Status.OK:
                    continue
                for act in ("get", "open", "list"):
                    try:
                        _read(box, act, name)
                    except ModumError as error:
                        if act == "list":
                            harm.append(f"nobody can list buffers ({what}: {error})")
                    except Exception as error:  # noqa: BLE001 - whatever it is, it is not Modum's
                        harm.append(f"{act} raises {type(error).__name__} ({what})")
            sequence += 1
            status, answer = ask(connection, sequence, Doom(name))
            if status is Status.OK:
                sequence += 1
                ask(connection, sequence, Delete(name, decode(answer, int)))
            box.value(name).delete()
    if harm:
        raise NotStoppedError("; ".join(dict.fromkeys(harm)))
    return f"{len(POISONS)} poisons were errors of Modum's for who read them, and no trouble for others"


def _read(box: Box, act: str, name: str) -> object:
    match act:
        case "get":
            return box.value(name).get()
        case "open":
            return box.open(name)
        case _:
            return box.list()


if __name__ == "__main__":
    run(attack)
