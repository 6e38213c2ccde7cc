"""Where the bytes of a buffer lie: stripes of 4 MiB, laid round-robin over the servers.

Stripe k of a buffer is on server (home + k) mod N, behind the earlier stripes of the buffer that are on this server.
The home follows from the name, so that small buffers spread over the servers too.
"""

import zlib
from collections.abc import Iterator

from modum.box.memory import Piece
from modum.box.wire import CHUNK, STRIPE

assert STRIPE % CHUNK == 0


def home_of(name: str, servers: int) -> int:
    """The server that keeps what `name` has once: a buffer's version, a counter, a lease, a queue."""
    return zlib.crc32(name.encode()) % servers


def segment_bytes(nbytes: int, home: int, servers: int) -> list[int]:
    """Bytes of a buffer of `nbytes` that lie on each server."""
    sizes = [0] * servers
    whole, rest = divmod(nbytes, STRIPE)
    for server in range(servers):
        turn = (server - home) % servers
        sizes[server] = (whole // servers + (turn < whole % servers)) * STRIPE
    sizes[(home + whole) % servers] += rest
    return sizes


def place(position: int, home: int, servers: int) -> tuple[int, int]:
    """The server, and the offset in its segment, of byte `position` of a buffer."""
    stripe, within = divmod(position, STRIPE)
    return (home + stripe) % servers, stripe // servers * STRIPE + within


def pieces(offset: int, nbytes: int, home: int, servers: int) -> dict[int, list[Piece]]:
    """Cut bytes [offset, offset + nbytes) of a buffer into pieces within stripes, by server."""
    cut: dict[int, list[Piece]] = {}
    position, end = offset, offset + nbytes
    while position < end:
        server, there = place(position, home, servers)
        count = min(STRIPE - there % STRIPE, end - position)
        cut.setdefault(server, []).append(Piece(there, position - offset, count))
        position += count
    return cut


def paired_pieces(
    offset: int, home: int, source_offset: int, source_home: int, nbytes: int, servers: int
) -> Iterator[tuple[int, int, Piece]]:
    """Cut an operation between two buffers so that either side of every piece lies within a chunk.

    Yields:
        (server of the target, server of the source, piece).
    """
    done = 0
    while done < nbytes:
        server, there = place(offset + done, home, servers)
        source_server, source_there = place(source_offset + done, source_home, servers)
        count = min(CHUNK - there % CHUNK, CHUNK - source_there % CHUNK, nbytes - done)
        yield server, source_server, Piece(there, done, count, source_there)
        done += count
