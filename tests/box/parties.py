"""Ways to a server and holds on its segments, as the library takes them, for tests that look behind a box."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from modum.box.memory.apply import Party
from modum.box.protocol.limits import SESSION_BYTES
from modum.box.protocol.messages import Open, SegmentInfo
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
def party_of(address: str, name: str) -> Iterator[Party]:
    """Map the part of a buffer that is on one server, as a client of its own."""
    with raw_transport(address, "local") as transport:
        attachment = transport.attach(transport.call(Open(name), SegmentInfo, 10), 10)
        assert isinstance(attachment, LocalAttachment)
        yield attachment.party
        attachment.close()
