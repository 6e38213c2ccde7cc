"""A stolen session: another client of the job reads who holds a lease (`Box.leases`), and claims that client's slots.

Whoever takes a slot over can end the session, and with it the leases and work items, or finish work in its name.

Stopped by what only the client and the server know of a session.
"""

from contextlib import suppress

from modum.box import Box
from modum.box.protocol.messages import Bye
from modum.errors import ModumError
from victim import NotStoppedError, ask, dial, run, shake_hands

SLOTS = 4
"""How many of the session's slots are tried."""


def attack(address: str, token: str | None) -> str:
    """Hold a lease in one client, and try to end it from outside with what another one sees."""
    with (
        Box.connect(address, token=token, transport="tcp", timeout=10) as victim,
        Box.connect(address, token=token, transport="tcp", timeout=10) as thief,
    ):
        lease = victim.lock("precious", ttl=60)
        (seen,) = thief.leases("precious")
        said = ""
        for slot in range(SLOTS):
            for incarnation in (b"", bytes(8)):
                with dial(address) as connection:
                    try:
                        session = bytes.fromhex(seen.holder)
                        shake_hands(connection, token, session, slot, 1_000_000, incarnation)
                    except (ModumError, ValueError) as error:
                        said = str(error)
                        continue
                    with suppress(OSError):
                        ask(connection, 1, Bye())
        if [each.holder for each in thief.leases("precious")] != [seen.holder]:
            raise NotStoppedError(
                f"the session {seen.holder} of another client was ended by its name, as a lease shows it"
            )
        try:
            lease.renew()
            victim.counter("session").add(1)
            lease.release()
        except ModumError as error:
            raise NotStoppedError(f"the client whose session it was is cut off: {error}") from error
    return f"the holder of the lease noticed nothing: {said or 'no session has this name'}"


if __name__ == "__main__":
    run(attack)
