"""Where the bytes of a buffer lie: in stripes, laid round-robin over the servers, as evenly as they go.

The home server follows from the name, so that buffers of a single stripe spread over the servers too.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

from modum.box.protocol.limits import CHUNK, STRIPE

_UNIT: Final = 64 << 10
"""Bytes of which stripes are multiples where each server has one: a smaller buffer is not worth a second request."""
assert STRIPE % CHUNK == 0


class Piece(NamedTuple):
    """A part of an operation, in bytes.

    With a source, either side lies within one chunk; otherwise the piece lies within one stripe.

    Attributes:
        offset: where in the segment.
        start: where in the caller's array.
        nbytes: how much.
        source_offset: where in the source segment, if the operation has one.
    """

    offset: int
    start: int
    nbytes: int
    source_offset: int = 0

    def chunks(self) -> "list[Piece]":
        """Return the piece cut at the borders of chunks; only for one without a source."""
        start, end = self.offset, self.offset + self.nbytes
        borders = [start, *range(start - start % CHUNK + CHUNK, end, CHUNK), end]
        return [Piece(low, self.start + low - start, high - low) for low, high in pairwise(borders)]


def home_of(name: str, servers: int) -> int:
    """Return the number of the server that keeps what a name has once: a version, counter, lease, queue or value."""
    return zlib.crc32(name.encode()) % servers


def stripe_bytes(nbytes: int, servers: int) -> int:
    """Return how many bytes the stripes of a buffer have.

    Up to 4 MiB a server, each server has one stripe. Beyond, stripes are whole chunks, so that no two of them share
    one: as long as possible among those that leave least on the fullest server.
    """
    if nbytes <= servers * STRIPE:
        return _UNIT * -(-nbytes // (servers * _UNIT))
    lengths = range(STRIPE, 0, -CHUNK)
    return min(lengths, key=lambda stripe: max(Layout(nbytes, 0, servers, stripe).segments()))


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the bytes of a buffer lie.

    Stripe k is on server (home + k) mod `servers`, behind the earlier stripes of the buffer that are on this server.

    Attributes:
        nbytes: bytes of the buffer.
        home: number of its home server.
        servers: how many servers there are.
        stripe: bytes of a stripe.
    """

    nbytes: int
    home: int
    servers: int
    stripe: int

    @classmethod
    def of(cls, name: str, nbytes: int, servers: int) -> "Layout":
        """Return the one layout that a buffer of this name has."""
        return cls(nbytes, home_of(name, servers), servers, stripe_bytes(nbytes, servers))

    def segments(self) -> list[int]:
        """Return the bytes on each server, in order."""
        sizes = [0] * self.servers
        whole, rest = divmod(self.nbytes, self.stripe)
        for server in range(self.servers):
            turn = (server - self.home) % self.servers
            sizes[server] = (whole // self.servers + (turn < whole % self.servers)) * self.stripe
        sizes[(self.home + whole) % self.servers] += rest
        return sizes

    def place(self, position: int) -> tuple[int, int]:
        """Return the server of byte `position`, and its offset in the segment there."""
        stripe, within = divmod(position, self.stripe)
        return (self.home + stripe) % self.servers, stripe // self.servers * self.stripe + within

    def pieces(self, offset: int, nbytes: int) -> dict[int, list[Piece]]:
        """Cut the bytes [offset, offset + nbytes) into pieces within stripes, by server; `start` is 0 at `offset`."""
        cut: dict[int, list[Piece]] = {}
        position, end = offset, offset + nbytes
        while position < end:
            server, there = self.place(position)
            count = min(self.stripe - there % self.stripe, end - position)
            cut.setdefault(server, []).append(Piece(there, position - offset, count))
            position += count
        return cut


def paired_pieces(
    target: Layout, offset: int, source: Layout, source_offset: int, nbytes: int
) -> Iterator[tuple[int, int, Piece]]:
    """Cut an operation between two buffers so that either side of every piece lies within a chunk and a stripe.

    Args:
        target: layout of the buffer that changes.
        offset: in it, in bytes.
        source: layout of the buffer that is read.
        source_offset: in it, in bytes.
        nbytes: length of the operation.

    Yields:
        (server of the target, server of the source, piece).
    """
    done = 0
    while done < nbytes:
        server, there = target.place(offset + done)
        other, source_there = source.place(source_offset + done)
        rooms = (min(CHUNK - at % CHUNK, layout.stripe - at % layout.stripe)
                 for layout, at in ((target, there), (source, source_there)))  # fmt: skip
        count = min(*rooms, nbytes - done)
        yield server, other, Piece(there, done, count, source_there)
        done += count
