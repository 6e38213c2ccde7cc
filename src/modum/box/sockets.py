"""Plain sockets: addresses, options, and whole frames in and out."""

import errno
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from modum.box.protocol.frames import Header, Op, Status, parse_header
from modum.box.protocol.limits import DEFAULT_PORT, HEADER_BYTES, KEEPALIVE, MAX_GREETING, STALL_SECONDS, USER_TIMEOUT
from modum.box.protocol.messages import encode
from modum.errors import ProtocolError

if TYPE_CHECKING:
    from modum.box.sealed import Sealed


Stream: TypeAlias = "socket.socket | Sealed"
"""A connection as frames use it."""
ENCRYPT: Final = "encrypt://"
"""Before the address of a memory server with which everything between hosts is encrypted."""


def is_encrypted(address: str) -> bool:
    """Return whether an address asks for encryption."""
    return address.strip().startswith(ENCRYPT)


def parse_address(text: str) -> tuple[str, int]:
    """Return (host, port) of `host`, `host:port` or `[ipv6]:port`; the default port is 7500.

    `encrypt://` may stand before it: see `is_encrypted`.

    Args:
        text: the address.

    Returns:
        Host and port.

    Raises:
        ValueError: there is no host, or no valid port.
    """
    text = text.strip().removeprefix(ENCRYPT)
    if "/" in text:
        right = text.partition("://")[2].partition("/")[0] or f"127.0.0.1:{DEFAULT_PORT}"
        raise ValueError(f"{text!r} is no address of a memory server, but a URL or a path. HINT: write {right}")
    host, colon, port = text.strip().rpartition(":")
    if not colon or (port.endswith("]") and ":" in host):
        host, port = text.strip(), str(DEFAULT_PORT)
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(
            f"{text!r} is no address of a memory server: write host:port, such as 127.0.0.1:{DEFAULT_PORT}"
        )
    return host, int(port)


def format_address(host: str, port: int, *, encrypted: bool = False) -> str:
    """Return `host:port`, with brackets around an IPv6 address: the inverse of `parse_address` and `is_encrypted`."""
    return (ENCRYPT if encrypted else "") + (f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


def local_host() -> str:
    """Name this kernel and its network namespace: equal for two processes that can share memory by a Unix socket.

    Returns:
        The name; empty where it cannot be known: some containers have no /proc, or not all of it.

    Raises:
        OSError: there are too many open files.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}:{Path('/proc/self/ns/net').stat().st_ino}"
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise  # that passes
        return ""


def tune(connection: socket.socket, stall: float = STALL_SECONDS) -> None:
    """Set what every connection needs: no delay, notice of dead hosts, and an end to stalled transfers.

    Args:
        connection: a connected socket.
        stall: seconds after which a call that moves no byte fails with BlockingIOError.
    """
    timeout = struct.pack("ll", int(stall), int(stall % 1 * 1e6) or 1)
    connection.setblocking(True)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
    if connection.family in (socket.AF_INET, socket.AF_INET6):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, number in KEEPALIVE.items():
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), number)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(USER_TIMEOUT * 1000))


def receive_exactly(connection: "Stream", target: memoryview, *, idle: bool = False) -> bool:
    """Fill `target` with bytes from the connection.

    Args:
        connection: a tuned socket.
        target: bytes to fill.
        idle: wait for the first byte for as long as it takes.

    Returns:
        False if the other side closed the connection before the first byte, else True.

    Raises:
        ConnectionError: the connection ended, or stalled, in the middle.
    """
    done = 0
    while done < len(target):
        try:
            count = connection.recv_into(target[done:], 0, socket.MSG_WAITALL)
        except BlockingIOError:
            if idle and not done:
                continue
            raise ConnectionError("nothing came for too long in the middle of a frame") from None
        if not count:
            if done:
                raise ConnectionError("the connection ended in the middle of a frame")
            return False
        done += count
    return True


def send_frame(connection: "Stream", header: Header, payload: bytes | memoryview = b"") -> None:
    """Send a whole frame.

    Args:
        connection: to send on.
        header: of the frame.
        payload: behind it, of the length that the header says.

    Raises:
        ConnectionError: the other side did not read for too long.
        OSError: the connection is gone.
    """
    send_all(connection, [header.pack(), payload] if len(payload) else [header.pack()])


def send_all(connection: "Stream", parts: list[bytes | memoryview]) -> None:
    """Send bytes that lie in several places.

    Args:
        connection: to send on.
        parts: what to send, in order.

    Raises:
        ConnectionError: the other side did not read for too long.
        OSError: the connection is gone.
    """
    left = sum(map(len, parts))
    try:
        sent = connection.sendmsg(parts)
        while sent < left:
            left -= sent
            parts = unsent(parts, sent)
            sent = connection.sendmsg(parts)
    except BlockingIOError:
        raise ConnectionError("the other side read nothing for too long") from None


def unsent(parts: Sequence[bytes | memoryview], sent: int) -> list[bytes | memoryview]:
    """Return what remains of `parts` after their first `sent` bytes."""
    rest: list[bytes | memoryview] = []
    for part in parts:
        if sent < len(part):
            rest.append(memoryview(part)[sent:])
        sent = max(0, sent - len(part))
    return rest


def send_greeting(connection: "Stream", op: Op, message: object, status: Status = Status.OK) -> None:
    """Send a message of the handshake."""
    payload = encode(message)
    send_frame(connection, Header(op, 0, len(payload), status=status), payload)


def receive_greeting(connection: "Stream", op: Op) -> tuple[Header, bytearray]:
    """Receive a message of the handshake: its header and its payload.

    Args:
        connection: to receive on.
        op: kind of the message.

    Returns:
        The header and the payload.

    Raises:
        ProtocolError: it is not a message of the kind `op`, or it is too long.
        ConnectionError: the connection ended.
    """
    data = bytearray(HEADER_BYTES)
    if not receive_exactly(connection, memoryview(data)):
        raise ConnectionError("the connection was closed during the handshake")
    header = parse_header(data, limit=MAX_GREETING)
    if header.op is not op:
        raise ProtocolError(f"expected {op.name} in the handshake, not {header.op.name}")
    payload = bytearray(header.payload)
    if not receive_exactly(connection, memoryview(payload)):
        raise ConnectionError("the connection was closed during the handshake")
    return header, payload
