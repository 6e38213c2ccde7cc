"""The transports, and the choice between them: one for every server, made when a box is connected."""

import logging
import socket
from typing import Final

from modum.box.client.connection import ConnectionPool, Endpoint
from modum.box.protocol.messages import Welcome
from modum.box.sockets import format_address, local_host, parse_address
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


def check_choice(choice: str | None) -> str:
    """Return the transport that was asked for; "auto" for None.

    Raises:
        ValueError: there is no such transport.
        TransportError: this machine cannot use it.
    """
    choice = choice or "auto"
    if choice != "auto":
        if choice not in TRANSPORTS:
            raise ValueError(f"transport {choice!r} is not one of auto, {', '.join(TRANSPORTS)}")
        if reason := TRANSPORTS[choice].unavailable():
            raise TransportError(f"transport {choice!r} cannot be used here: {reason}")
    return choice


def open_transport(
    address: str, *, choice: str, token: str | None, session: bytes, threads: int, patience: float
) -> Transport:
    """Connect to one server and settle how to reach its memory.

    Args:
        address: host:port.
        choice: from `check_choice`; "auto" is local where server and client share a kernel, else rdma where both have a
            device for it, else tcp.
        token: the job's token.
        session: 16 random bytes that name this client.
        threads: how many threads an operation may use where the client computes.
        patience: seconds.

    Raises:
        AuthenticationError, ConnectionLostError, DeadlineError: see `Lane.connect`.
        TransportError: the choice cannot be had for this server; the message says why.
    """
    host, port = parse_address(address)
    address = format_address(host, port)
    endpoint = Endpoint(address, socket.AF_INET, (host, port), token, session)
    lanes = ConnectionPool(endpoint)
    with lanes.lane() as lane:
        welcome = lane.connect(patience, "connect")
    if choice in ("tcp", "rdma"):
        return _over_network(lanes, welcome, choice, patience)
    reason = _why_not_local(welcome)
    if reason and choice == "local":
        lanes.close()
        raise TransportError(f"transport 'local' cannot be used with memory server {address}: {reason}")
    if reason:
        return _over_network(lanes, welcome, choice, patience)
    nearby = Endpoint(address, socket.AF_UNIX, f"\0{welcome.local_socket}", token, session, endpoint.server)
    nearby_lanes = ConnectionPool(nearby, first=1)  # numbers of lanes are never used again: 0 was the greeting over TCP
    try:
        with nearby_lanes.lane() as lane:
            lane.connect(patience, "connect to the Unix socket")
    finally:
        lanes.close()
    return LocalTransport(nearby_lanes, threads)


def _over_network(lanes: ConnectionPool, welcome: Welcome, choice: str, patience: float) -> Transport:
    here = RdmaTransport.unavailable()
    there = None if welcome.rails else f"the server cannot: {welcome.no_rails}"
    if choice == "tcp" or (choice == "auto" and (here or there)):
        return TcpTransport(lanes)
    try:
        if here or there:
            raise TransportError(
                f"transport 'rdma' cannot be used with memory server {lanes.endpoint.address}: {here or there}"
            )
        return RdmaTransport(lanes, welcome.rails, patience)
    except BaseException as error:
        if choice == "auto" and isinstance(error, TransportError):
            log.warning("box: %s via tcp, though both ends have RDMA devices: %s", lanes.endpoint.address, error)
            return TcpTransport(lanes)
        lanes.close()
        raise


def _why_not_local(welcome: Welcome) -> str | None:
    if reason := LocalTransport.unavailable():
        return reason
    if welcome.local_host != local_host():
        return "it runs on another machine, or in another network namespace"
    return None
