"""How fast every way to every server of a box is from here."""

import secrets
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from modum.box.protocol.frames import Op
from modum.box.protocol.layout import Piece
from modum.box.protocol.limits import SESSION_BYTES, STRIPE
from modum.box.protocol.messages import Create, Delete, SegmentInfo
from modum.box.transport import TRANSPORTS, Transport, Work, open_transport
from modum.errors import ModumError, TransportError
from modum.observe.doctor import Row

__all__ = ["Way", "measure_ways"]

_BYTES: Final = 16 * STRIPE
_SMALL: Final = 4
_REPEATS: Final = 5
_SMALL_REPEATS: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One transport to one server. Without a `reason`, medians; the speeds are of bytes of the array."""

    server: str
    transport: str
    route: str
    reason: str | None
    """Why it cannot be used."""
    lost: bool = False
    """Whether that is because the server cannot be reached or refuses this client."""
    small_read_seconds: float = 0.0
    """A read of 4 bytes."""
    read_bytes_per_second: float = 0.0
    add_bytes_per_second: float = 0.0

    def row(self) -> Row:
        """The line for people."""
        if self.lost:
            return Row(self.server, "cannot be measured", self.reason or "")
        if self.reason:
            return Row(f"{self.server} via {self.route}", f"cannot be used: {self.reason}")
        return Row(
            f"{self.server} via {self.route}",
            f"{self.read_bytes_per_second / 1e9:.2f} GB/s read, {self.add_bytes_per_second / 1e9:.2f} GB/s added, "
            f"{self.small_read_seconds * 1e6:.0f} us for {_SMALL} bytes",
        )


def measure_ways(servers: Sequence[str], *, token: str | None, patience: float = 10.0) -> list[Way]:
    """Measure every transport to every server, one after the other, with a buffer of 64 MiB that is deleted again.

    Args:
        servers: addresses "host:port".
        token: the box's.
        patience: seconds that a server may take for an answer.

    Raises:
        ValueError: an address is no address.
    """
    ways = []
    for server in servers:
        for choice in TRANSPORTS:
            try:
                ways.append(_measure(server, choice, token, patience))
            except TransportError as error:
                ways.append(Way(server=server, transport=choice, route=choice, reason=str(error)))
            except ModumError as error:
                ways.append(Way(server=server, transport=choice, route=choice, reason=str(error), lost=True))
                break
    return ways


def _measure(server: str, choice: str, token: str | None, patience: float) -> Way:
    session = secrets.token_bytes(SESSION_BYTES)
    if reason := TRANSPORTS[choice].unavailable():
        raise TransportError(reason)
    way = open_transport(server, choice=choice, token=token, session=session, threads=1, patience=patience)
    name = f"modum-doctor-{session.hex()}"
    try:
        spec = Create(name, [_BYTES // 4], "float32", _BYTES, _BYTES, b"\x80")
        info = way.call(spec, SegmentInfo, patience)
        try:
            return _try(way, info, patience)
        finally:
            way.call(Delete(name), type(None), patience)
            way.leave(patience)
    finally:
        way.close()


def _try(way: Transport, info: SegmentInfo, patience: float) -> Way:
    attachment = way.attach(info, patience)
    data = np.ones(_BYTES // 4, np.float32)
    stripes = [Piece(start, start, STRIPE) for start in range(0, _BYTES, STRIPE)]

    def run(op: Op, pieces: list[Piece]) -> Callable[[], None]:
        work = Work(op=op, target=attachment, pieces=pieces, data=data, factor=np.float32(1), patience=patience)
        return lambda: way.run(work)

    try:
        add, read = run(Op.ADD, stripes), run(Op.READ, stripes)
        small = run(Op.READ, [Piece(0, 0, _SMALL)])
        return Way(
            server=way.address,
            transport=way.name,
            route=way.route,
            reason=None,
            add_bytes_per_second=_BYTES / _seconds(add, _REPEATS),
            read_bytes_per_second=_BYTES / _seconds(read, _REPEATS),
            small_read_seconds=_seconds(small, _SMALL_REPEATS),
        )
    finally:
        attachment.close()


def _seconds(act: Callable[[], None], repeats: int) -> float:
    """Median, after one that does not count."""
    act()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
