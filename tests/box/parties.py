"""A hold on a segment as the library takes it: its memory and its locks, for tests that look behind a buffer."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from modum.box.memory.apply import Party
from modum.box.protocol.limits import SESSION_BYTES
from modum.box.protocol.messages import Open, SegmentInfo
from modum.box.transport import open_transport
from modum.box.transport.local import LocalAttachment


@contextmanager
def party_of(address: str, name: str) -> Iterator[Party]:
    """Map the part of a buffer that is on one server, as a client of its own."""
    session = secrets.token_bytes(SESSION_BYTES)
    transport = open_transport(address, choice="local", token=None, session=session, threads=1, timeout=10)
    try:
        attachment = transport.attach(transport.call(Open(name), SegmentInfo, 10), 10)
        assert isinstance(attachment, LocalAttachment)
        yield attachment.party
        attachment.close()
        transport.leave(10)
    finally:
        transport.close()
