"""Many large metas: one client makes tiny buffers whose `meta` is as large as a message may be.

Stopped by a limit on a meta, or by counting it as memory of the pool.
"""

import secrets

from modum.box import Box
from modum.box.protocol.limits import MAX_MESSAGE
from modum.errors import ModumError, PoolFullError
from victim import ENOUGH, NotStoppedError, check_memory, memory_of, run

META = MAX_MESSAGE - 4096


def attack(address: str, token: str | None) -> str:
    """Make buffers until the server says no."""
    prefix = f"attack-{secrets.token_hex(4)}"
    content = {"": bytes(META)}
    made = []
    with Box.connect(address, token=token, transport="tcp") as box:
        before = memory_of(box)
        try:
            for number in range(2 * ENOUGH // META):
                box.create(name := f"{prefix}-{number}", 1, meta=content).close()
                made.append(name)
                check_memory(box, before, f"{len(made)} buffers of 4 bytes")
        except (PoolFullError, ValueError) as error:
            return f"after {len(made)} buffers: {error}"
        except ModumError as error:
            raise NotStoppedError(f"after {len(made)} buffers the server failed: {error}") from error
        finally:
            for name in made:
                box.delete(name)
    raise NotStoppedError(f"the server keeps {len(made)} buffers whose metas have 16 MiB each")


if __name__ == "__main__":
    run(attack)
