"""Measure how fast every transport to every server of a box is from this machine."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from modum.box import Box
from modum.box.fanout import Fanout
from modum.box.protocol.limits import SESSION_BYTES, STRIPE
from modum.box.transport import TRANSPORTS, open_transport
from modum.errors import ModumError, TransportError
from modum.observe.bandwidth import Bandwidth, measure_bandwidth
from modum.observe.doctor import Row

__all__ = ["ServerPath", "measure_paths"]

_BYTES: Final = 16 * STRIPE


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerPath:
    """A transport to a server, with its speed or the reason why it does not work."""

    server: str
    transport: str
    route: str
    """How the server is reached, with details that distinguish paths."""
    bandwidth: Bandwidth | None = None
    reason: str | None = None
    """Why it cannot be used."""
    lost: bool = False
    """Whether the cause is that the server cannot be reached or refuses this client."""

    def row(self) -> Row:
        """Return the line for people."""
        if self.lost:
            return Row(self.server, "cannot be measured", self.reason or "")
        if self.bandwidth is None:
            return Row(f"{self.server} via {self.route}", f"cannot be used: {self.reason}")
        speed = self.bandwidth
        return Row(
            f"{self.server} via {self.route}",
            f"{speed.read_bytes_per_second / 1e9:.2f} GB/s read, {speed.add_bytes_per_second / 1e9:.2f} GB/s added, "
            f"{speed.small_read_seconds * 1e6:.0f} us for 4 bytes",
        )


def measure_paths(servers: Sequence[str], *, token: str | None, timeout: float = 10.0) -> list[ServerPath]:
    """Measure every transport to every server, one after the other, with a buffer of 64 MiB that is deleted again.

    Args:
        servers: addresses "host:port".
        token: the box's.
        timeout: seconds that a server may take to answer.

    Returns:
        One entry for each server and transport; a failed path has the reason.

    Raises:
        ValueError: an address is malformed.
    """
    paths = []
    for server in servers:
        for choice in TRANSPORTS:
            try:
                paths.append(_measure(server, choice, token, timeout))
            except TransportError as error:
                paths.append(ServerPath(server=server, transport=choice, route=choice, reason=str(error)))
            except ModumError as error:
                paths.append(ServerPath(server=server, transport=choice, route=choice, reason=str(error), lost=True))
                break
    return paths


def _measure(server: str, choice: str, token: str | None, timeout: float) -> ServerPath:
    """Measure one path, through a box of this server alone, which may be one of several."""
    if reason := TRANSPORTS[choice].why_not():
        raise TransportError(reason)
    session = secrets.token_bytes(SESSION_BYTES)
    transport = open_transport(server, choice=choice, token=token, session=session, threads=1, timeout=timeout)
    with Box(Fanout([transport], timeout), session.hex()) as box:
        speed = measure_bandwidth(box, _BYTES)
    return ServerPath(server=box.servers[0], transport=choice, route=box.routes[0], bandwidth=speed)
