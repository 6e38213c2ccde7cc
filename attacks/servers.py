"""Renamed lists of servers: come with the servers of a box in another order, with one left out, or with one twice.

Each would look for buffers where they are not, and write over what is there.

Stopped by `Join`: a server takes part in one list, that of the identities which the servers gave in the handshake,
whatever names they are reached by.
"""

import secrets
from contextlib import suppress

from modum.box import Box
from modum.errors import ModumError
from victim import NotStoppedError, run

SERVERS = 3


def attack(address: str, token: str | None) -> str:
    """Come with wrong lists beside a client with the right one."""
    right = address.split(",")
    name = f"attack-{secrets.token_hex(4)}"
    wrong = {
        "one server twice": [*right, right[0]],
        "one server twice, by two names": [*right, right[0].replace("127.0.0.1", "localhost")],
    }
    if len(right) > 1:
        wrong |= {
            "another order": [*right[1:], right[0]],
            "one left out": right[1:],
            "one alone": right[:1],
            "the first one twice, instead of the second": [right[0], right[0], *right[2:]],
        }
    said = ""
    with Box.connect(right, token=token, transport="tcp", timeout=10) as box:
        box.create(name, 1000, "int64").add([7] * 1000)
        try:
            for how, servers in wrong.items():
                try:
                    with Box.connect(servers, token=token, transport="tcp", timeout=10) as other:
                        with suppress(ModumError):
                            other.open(name).write([0] * 1000)
                        with suppress(ModumError):
                            other.create(name, 1000, "int64").write([0] * 1000)
                except (ModumError, ValueError) as error:
                    said = str(error)
                    continue
                raise NotStoppedError(f"a list with {how} was let in")
            if box.open(name).read().tolist() != [7] * 1000:
                raise NotStoppedError("the buffer was changed")
        finally:
            box.delete(name)
    return f"{len(wrong)} wrong lists were refused: {said}"


if __name__ == "__main__":
    run(attack, servers=SERVERS)
