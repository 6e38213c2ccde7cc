"""Headers of frames: what is not refused is within the limits, and is written as it was read."""

from modum.box.protocol.frames import CARRIES_NUMBERS, STAGED, Op, check_request, parse_header
from modum.box.protocol.limits import CHUNK, HEADER_BYTES, MAX_MESSAGE
from modum.errors import ProtocolError

START = b"MDM\x06"


def take(data: bytes) -> None:
    """Read a header, and check it as that of a request."""
    if not data.startswith(START):
        data = START + data
    data = data[:HEADER_BYTES].ljust(HEADER_BYTES, b"\0")
    try:
        header = parse_header(data)
    except ProtocolError:
        return
    assert header.payload <= MAX_MESSAGE
    if header.factor == header.factor:
        assert header.pack() == data
    try:
        check_request(header)
    except ProtocolError:
        return
    if header.op < Op.CALL:
        assert 0 < header.count <= CHUNK
        assert header.offset // CHUNK == (header.offset + header.count - 1) // CHUNK
        carries = header.op in CARRIES_NUMBERS and not header.flags & STAGED
        due = header.count if carries else 0
        if header.compression:
            assert header.op is Op.EXCHANGE
            due = header.compression.sent(header.count // 4)
        assert header.payload == due
