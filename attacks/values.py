"""Many values: one client sets small values of the largest size, under ever new names, beside a pool that is small.

Stopped by a limit on what all values of a server take together; `MAX_VALUES` and `MAX_VALUE` alone allow 16 GiB.
"""

import secrets

from modum.box import Box
from modum.box.protocol.limits import MAX_VALUE
from modum.errors import ModumError, PoolFullError
from victim import ENOUGH, NotStoppedError, check_memory, memory_of, run


def attack(address: str, token: str | None) -> str:
    """Set values until the server says no."""
    prefix = f"attack-{secrets.token_hex(4)}"
    content = bytes(MAX_VALUE - 8)
    done = 0
    with Box.connect(address, token=token, transport="tcp") as box:
        before = memory_of(box)
        try:
            for done in range(2 * ENOUGH // MAX_VALUE):
                box.value(f"{prefix}-{done}").set(content)
                if not done % 16:
                    check_memory(box, before, f"{done} values of 1 MiB")
        except PoolFullError as error:
            return f"after {done} values: {error}"
        except ModumError as error:
            raise NotStoppedError(f"after {done} values the server failed: {error}") from error
        finally:
            for number in range(done + 1):
                box.value(f"{prefix}-{number}").delete()
    raise NotStoppedError(f"the server keeps {done + 1} MiB of values")


if __name__ == "__main__":
    run(attack)
