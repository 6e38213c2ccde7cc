"""The fixed header of a frame, and the checks that every frame must pass (docs/reference/wire-format.md). No I/O."""

import enum
import struct
from dataclasses import dataclass
from typing import Final

from modum.box.compression import BY_CODE, Compression
from modum.box.protocol.limits import CHUNK, HEADER_BYTES, MAX_MESSAGE
from modum.errors import ProtocolError

MAGIC: Final = b"MDM\x06"  # the last byte is the version of the format

_HEADER: Final = struct.Struct("<4sBBHQQQQQdII")
assert _HEADER.size == HEADER_BYTES


class Op(enum.IntEnum):
    """What a frame asks for. Codes up to 15 move numbers and name a segment; the others carry a message."""

    READ = 1
    WRITE = 2
    ADD = 3
    EXCHANGE = 4
    COPY = 5
    SCALE = 6
    AXPY = 7
    CALL = 16
    ATTACH = 17
    ACKNOWLEDGE = 18
    GREET = 32
    PROVE = 33


DATA_OPS: Final = tuple(op for op in Op if op < Op.CALL)
CARRIES_NUMBERS: Final = frozenset({Op.WRITE, Op.ADD, Op.EXCHANGE})
_HAS_SOURCE: Final = frozenset({Op.COPY, Op.SCALE, Op.AXPY})


# Flags of a data request.
LAST: Final = 1
"""Ends an operation on this server, which is then counted."""
PUBLISH: Final = 2
"""The buffer's version goes up by one."""
STAGED: Final = 4
"""The numbers are not in the frame but in the slot's ring, one-sidedly: see transport/rdma.py."""
PRESENT: Final = 8
"""The reply to EXCHANGE has what the segment had before, in place of the difference."""
FLAGS: Final = LAST | PUBLISH | STAGED | PRESENT
CODE_SHIFT: Final = 4
"""The flags from here on are the code of an EXCHANGE's `Compression`; 0 for none."""
_NUMBER: Final = 4  # bytes of a number that can be compressed


class Status(enum.IntEnum):
    """How a request ended. FAILED leaves the connection as it was; after REFUSED the server closes it."""

    OK = 0
    FAILED = 1
    REFUSED = 2


# a look into a dictionary takes a tenth of the time of Op(code)
_OPS: Final = {int(op): op for op in Op}
_STATUSES: Final = {int(status): status for status in Status}


@dataclass(slots=True)
class Header:
    """The fixed part of a frame.

    Attributes:
        op: what is asked for, or was.
        sequence: number of the request in its slot; a reply repeats it.
        payload: bytes that follow.
        flags: `LAST`, `PUBLISH`, `STAGED`, `PRESENT`; above them the code of a compression.
        status: how it ended; OK in a request.
        segment: number of the segment that is read or changed.
        offset: where in it, in bytes.
        source: number of the second segment of COPY, SCALE, AXPY.
        source_offset: where in it, in bytes.
        factor: scale, moving rate or factor.
        count: bytes of the segment that the operation covers.
    """

    op: Op
    sequence: int
    payload: int = 0
    flags: int = 0
    status: Status = Status.OK
    segment: int = 0
    offset: int = 0
    source: int = 0
    source_offset: int = 0
    factor: float = 0.0
    count: int = 0

    @property
    def compression(self) -> Compression | None:
        """How the numbers of an EXCHANGE travel, if not as they are."""
        return BY_CODE.get(self.flags >> CODE_SHIFT)

    def pack(self) -> bytes:
        """Return the 64 bytes of the wire."""
        return _HEADER.pack(
            MAGIC,
            self.op,
            self.flags,
            self.status,
            self.sequence,
            self.segment,
            self.offset,
            self.source,
            self.source_offset,
            self.factor,
            self.count,
            self.payload,
        )


def parse_header(data: bytes | bytearray | memoryview, *, limit: int = MAX_MESSAGE) -> Header:
    """Read a header.

    Args:
        data: 64 bytes.
        limit: the largest payload, in bytes, that is accepted with a message.

    Returns:
        The header, checked.

    Raises:
        ProtocolError: for anything that docs/reference/wire-format.md does not allow, before the payload is looked at.
    """
    magic, op, flags, status, sequence, segment, offset, source, source_offset, factor, count, payload = _HEADER.unpack(
        data
    )
    if magic != MAGIC:
        raise ProtocolError(f"frame starts with {magic!r} instead of {MAGIC!r}: not Modum, or another version of it")
    operation = _OPS.get(op)
    outcome = _STATUSES.get(status)
    if operation is None or outcome is None:
        raise ProtocolError(f"frame has an unknown code: operation {op}, status {status}")
    if flags & ~FLAGS and flags >> CODE_SHIFT not in BY_CODE:
        raise ProtocolError(f"frame has unknown flags {flags:#x}")
    if operation < Op.CALL:
        limit = min(limit, CHUNK) if outcome is Status.OK else limit
        if not 0 < count <= CHUNK or offset % CHUNK + count > CHUNK:
            raise ProtocolError(
                f"{operation.name} of {count} bytes at {offset} is not within one chunk of {CHUNK} bytes"
            )
    if payload > limit:
        raise ProtocolError(f"{operation.name} frame announces a payload of {payload} bytes, the limit is {limit}")
    return Header(
        operation,
        sequence,
        payload,
        flags,
        outcome,
        segment,
        offset,
        source,
        source_offset,
        factor,
        count,
    )


def check_request(header: Header) -> None:
    """Check what holds for requests only: the payload's length follows from the operation.

    Args:
        header: of a frame that a client sent.

    Raises:
        ProtocolError: the payload is not what the operation takes, or the frame is a reply.
    """
    if header.status is not Status.OK:
        raise ProtocolError(f"a request must have status 0, this one has {header.status}")
    if header.op is Op.ACKNOWLEDGE and header.payload:
        raise ProtocolError(f"ACKNOWLEDGE has no payload, and this one has {header.payload} bytes")
    if header.op < Op.CALL:
        expected = header.count if header.op in CARRIES_NUMBERS and not header.flags & STAGED else 0
        if header.flags > FLAGS and (compression := header.compression):
            if header.op is not Op.EXCHANGE:
                raise ProtocolError(f"{header.op.name} has no compression, and this one has {compression.name}")
            if header.flags & (STAGED | PRESENT):
                raise ProtocolError(
                    f"an EXCHANGE in {compression.name} is neither staged nor answered with what was there"
                )
            if header.count % _NUMBER:
                raise ProtocolError(f"an EXCHANGE in {compression.name} has whole float32, not {header.count} bytes")
            expected = compression.sent(header.count // _NUMBER)
        if header.payload != expected:
            raise ProtocolError(f"{header.op.name} of {header.count} bytes has {header.payload} bytes of payload")
        if header.flags & PRESENT and header.op is not Op.EXCHANGE:
            raise ProtocolError(f"{header.op.name} has no present numbers to answer with")
        if header.op in _HAS_SOURCE and header.source_offset % CHUNK + header.count > CHUNK:
            raise ProtocolError(f"the source at {header.source_offset} is not within one chunk of {CHUNK} bytes")
