"""The transports, and the choice between them: one for every server, made when a box is connected."""

import logging
from collections.abc import Collection, Sequence
from typing import Final

from modum.box.client.endpoint import Endpoint
from modum.box.client.pool import ConnectionPool
from modum.box.sockets import format_address, is_encrypted, parse_address
from modum.box.transport.base import Attachment, Transport, Work
from modum.box.transport.local import LocalTransport
from modum.box.transport.rdma import RdmaTransport
from modum.box.transport.tcp import TcpTransport
from modum.errors import TransportError

__all__ = ["TRANSPORTS", "Attachment", "Transport", "Work", "check_choice", "open_transport"]

log = logging.getLogger("modum.box")

TRANSPORTS: Final[dict[str, type[Transport]]] = {
    kind.name: kind for kind in (LocalTransport, RdmaTransport, TcpTransport)
}
"""All transports by name; "auto" takes the first that can be had, in this order."""


def check_choice(choice: str | None) -> str:
    """Return the transport that was asked for; "auto" for None.

    Args:
        choice: a name in `TRANSPORTS`, "auto", or None.

    Returns:
        The name, or "auto".

    Raises:
        ValueError: there is no such transport.
        TransportError: this machine cannot use it.
    """
    choice = choice or "auto"
    if choice != "auto":
        if choice not in TRANSPORTS:
            raise ValueError(f"transport {choice!r} is not one of auto, {', '.join(TRANSPORTS)}")
        if reason := TRANSPORTS[choice].why_not():
            raise TransportError(f"transport {choice!r} cannot be used here: {reason}")
    return choice


def open_transport(
    address: str,
    *,
    choice: str,
    token: str | None,
    session: bytes,
    threads: int,
    timeout: float,
    others: Collection[str] = (),
    place: int = 0,
    servers: Sequence[str] = (),
) -> Transport:
    """Connect to one server, and settle how to reach its memory.

    Args:
        address: host:port.
        choice: from `check_choice`; "auto" is the first of `TRANSPORTS` that can be had. One against which nothing
            spoke and that cannot be opened all the same is passed over with a warning.
        token: the job's token, or None.
        session: 16 random bytes that name this client.
        threads: how many threads an operation may use where the client computes.
        timeout: seconds.
        others: identifiers of the servers to which this client has a transport already.
        place: of the server in the box.
        servers: addresses of all servers of the box, in order; where they have replicas, any of them may serve a place.

    Returns:
        The transport, connected.

    Raises:
        ValueError: it is no address, or that of one of the others.
        AuthenticationError, ConnectionLostError, DeadlineError: see `Connection.connect`.
        TransportError: the choice cannot be had for this server; the message says why.
    """
    host, port = parse_address(address)
    address = format_address(host, port, encrypted=is_encrypted(address))
    targets = [(host, port), *(parse_address(each) for each in (*servers[place + 1 :], *servers[:place]))]
    connections = ConnectionPool(Endpoint(address, targets, token, session, float(timeout), others, place=place))
    try:
        with connections.connection(timeout, "connect") as first:
            welcome = first.connect(timeout, "connect")
        for kind in TRANSPORTS.values() if choice == "auto" else [TRANSPORTS[choice]]:
            reason = kind.why_not(welcome)
            if choice == "auto" and kind.plain and is_encrypted(address):
                reason = "it does not encrypt: only who names it can have it"
            try:
                if reason:
                    raise TransportError(
                        f"transport {kind.name!r} cannot be used with memory server {address}: {reason}"
                    )
                way = kind.open(connections, welcome, threads=threads, timeout=timeout)
                way.job = welcome.job
                return way
            except TransportError as error:
                if choice != "auto":
                    raise
                if not reason:
                    log.warning("box: %s not via %s, though nothing spoke against it: %s", address, kind.name, error)
        raise TransportError(f"no transport can be used with memory server {address}")
    except BaseException:
        connections.close()
        raise
