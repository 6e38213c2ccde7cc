"""Boxes, ways to a server and holds on its segments, as the library makes them, for tests that look behind a box."""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from modum.box import Box
from modum.box.fanout import Fanout
from modum.box.memory.apply import Party
from modum.box.protocol.limits import SESSION_BYTES
from modum.box.protocol.messages import Join, Open, SegmentInfo
from modum.box.transport import Transport, open_transport
from modum.box.transport.local import LocalAttachment


@contextmanager
def raw_transport(address: str, choice: str = "tcp") -> Iterator[Transport]:
    """Lend a way to one server, without a box around it."""
    session = secrets.token_bytes(SESSION_BYTES)
    transport = open_transport(address, choice=choice, token=None, session=session, threads=1, timeout=10)
    try:
        yield transport
        transport.leave(10)
    finally:
        transport.close()


@contextmanager
def box_of(addresses: Sequence[str], choice: str = "tcp", timeout: float = 10) -> Iterator[tuple[Box, Fanout]]:
    """Lend a box as `Box.connect` makes it, and the fan-out behind it with the transports."""
    session = secrets.token_bytes(SESSION_BYTES)
    transports: list[Transport] = []
    with ExitStack() as stack:
        for address in addresses:
            others = [transport.server for transport in transports]
            transport = open_transport(
                address, choice=choice, token=None, session=session, threads=2, timeout=timeout, others=others
            )
            stack.callback(transport.close)
            transports.append(transport)
        identities = [transport.server for transport in transports]
        for index, transport in enumerate(transports):
            join = Join(identities, [each.address for each in transports], index)
            transport.call(join, type(None), timeout)
            transport.connections.endpoint.box = join.digest
        fanout = Fanout(transports, timeout)
        yield stack.enter_context(Box(fanout, session.hex())), fanout


@contextmanager
def party_of(address: str, name: str) -> Iterator[Party]:
    """Map the part of a buffer that is on one server, as a client of its own."""
    with raw_transport(address, "local") as transport:
        attachment = transport.attach(transport.call(Open(name), SegmentInfo, 10), 10)
        assert isinstance(attachment, LocalAttachment)
        yield attachment.party
        attachment.close()
