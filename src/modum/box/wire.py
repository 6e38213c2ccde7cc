"""The wire format: one fixed header, then a payload (docs/wire-format.md is the specification).

Nothing here does I/O. Everything that arrives is checked against the limits below before a byte is allocated for it.
"""

import enum
import struct
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec

from modum import errors
from modum.errors import ModumError, ProtocolError

MAGIC: Final = b"MDM\x01"  # the last byte is the version of the format
HEADER_BYTES: Final = 64
CHUNK: Final = 1 << 20  # bytes under one lock, and at most in one data frame
STRIPE: Final = 4 << 20  # bytes of a buffer that lie on one server before the next one's turn, at most
WINDOW: Final = 4  # requests of one lane that may be unanswered
SESSION_BYTES: Final = 16  # random ones, that name a client
MAX_MESSAGE: Final = 16 << 20  # bytes of a control message
MAX_GREETING: Final = 4 << 10  # bytes of a message from somebody not yet authenticated
MAX_NAME: Final = 255  # bytes of a name in UTF-8
MAX_DIMENSIONS: Final = 32
MAX_WAIT: Final = 1.0  # seconds that a server keeps a waiting request before it says "not yet"

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
    GREET = 32
    PROVE = 33


DATA_OPS: Final = tuple(op for op in Op if op < Op.CALL)
CARRIES_NUMBERS: Final = frozenset({Op.WRITE, Op.ADD, Op.EXCHANGE})
_HAS_SOURCE: Final = frozenset({Op.COPY, Op.SCALE, Op.AXPY})


# Flags of a data request.
LAST: Final = 1  # ends an operation on this server: it is counted
PUBLISH: Final = 2  # the buffer's version goes up by one
STAGED: Final = 4  # the numbers are not in the frame but in the lane's ring, one-sidedly: transport/rdma.py
FLAGS: Final = LAST | PUBLISH | STAGED


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
    """The fixed part of a frame; offsets and counts in bytes of a segment."""

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

    def pack(self) -> bytes:
        """The 64 bytes of the wire."""
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
    """Read 64 bytes as a header; `limit` is the largest payload that is accepted with a message.

    Raises:
        ProtocolError: for anything that docs/wire-format.md does not allow, before the payload is looked at.
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
    if flags & ~FLAGS:
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

    Raises:
        ProtocolError: the payload is not what the operation takes, or the frame is a reply.
    """
    if header.status is not Status.OK:
        raise ProtocolError(f"a request must have status 0, this one has {header.status}")
    if header.op < Op.CALL:
        expected = header.count if header.op in CARRIES_NUMBERS and not header.flags & STAGED else 0
        if header.payload != expected:
            raise ProtocolError(f"{header.op.name} of {header.count} bytes has {header.payload} bytes of payload")
        if header.op in _HAS_SOURCE and header.source_offset % CHUNK + header.count > CHUNK:
            raise ProtocolError(f"the source at {header.source_offset} is not within one chunk of {CHUNK} bytes")


# ---- messages: the payload of CALL, GREET and PROVE, as msgpack


class Message(msgspec.Struct, tag=True, frozen=True, forbid_unknown_fields=True):
    """Root of the requests that are made with CALL."""


class Join(Message, frozen=True):
    """The box's identity: its servers in order, and which of them this one is."""

    servers: list[str]
    addresses: list[str]
    index: int


class Create(Message, frozen=True):
    name: str
    shape: list[int]
    dtype: str
    nbytes: int
    segment_bytes: int
    meta: bytes


class Open(Message, frozen=True):
    name: str


class Delete(Message, frozen=True):
    name: str


class ListBuffers(Message, frozen=True):
    pass


class Version(Message, frozen=True):
    """Answered when the version is at least `at_least`, or after `wait` seconds."""

    segment: int
    at_least: int = 0
    wait: float = 0.0


class Publish(Message, frozen=True):
    segment: int


class CounterAdd(Message, frozen=True):
    name: str
    amount: int


class CounterWait(Message, frozen=True):
    name: str
    at_least: int
    wait: float


class LeaseAcquire(Message, frozen=True):
    name: str
    ttl: float
    wait: float


class LeaseRenew(Message, frozen=True):
    name: str
    grant: int


class LeaseRelease(Message, frozen=True):
    name: str
    grant: int


class ListLeases(Message, frozen=True):
    prefix: str


class QueueOpen(Message, frozen=True):
    name: str
    size: int


class QueueTake(Message, frozen=True):
    name: str
    wait: float


class QueueDone(Message, frozen=True):
    name: str
    item: int


class QueueLook(Message, frozen=True):
    name: str


class Link(Message, frozen=True):
    """Makes, or makes anew, the one-sided connection of a lane of this session: its ring over the server's `rail`."""

    lane: int
    rail: int


class Reach(Message, frozen=True):
    """Asks for what a one-sided read of a segment needs over the server's `rail`."""

    segment: int
    rail: int


class Look(Message, frozen=True):
    """Asks for the server's statistics."""


class Bye(Message, frozen=True):
    """Ends the session at once: its leases and work items go back."""


Request = (
    Join
    | Create
    | Open
    | Delete
    | ListBuffers
    | Version
    | Publish
    | CounterAdd
    | CounterWait
    | LeaseAcquire
    | LeaseRenew
    | LeaseRelease
    | ListLeases
    | QueueOpen
    | QueueTake
    | QueueDone
    | QueueLook
    | Link
    | Reach
    | Look
    | Bye
)


class SegmentInfo(msgspec.Struct, frozen=True):
    """What one server knows of a buffer."""

    name: str
    segment: int
    shape: list[int]
    dtype: str
    nbytes: int
    segment_bytes: int
    version: int
    meta: bytes


class Remote(msgspec.Struct, frozen=True):
    """Memory of the server that a client may reach one-sidedly: its address there, and the key to it."""

    address: int
    key: bytes


class Linked(msgspec.Struct, frozen=True):
    """Answers `Link`: the address of the server's worker, the device, and the lane's ring of `WINDOW` chunks."""

    worker: bytes
    device: str
    ring: Remote


class ServerStatistics(msgspec.Struct, frozen=True):
    """What one memory server holds and has done since it started.

    `memory` and `used` are the pool's limit and use in bytes; `operations` and `nbytes` count finished operations and
    bytes moved by operation, those of clients that map the memory included.
    """

    server: str
    address: str
    process: int
    seconds: float
    memory: int
    used: int
    buffers: int
    clients: int
    connections: int
    operations: dict[str, int]
    nbytes: dict[str, int]


class Greeting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """GREET, client to server: opens the handshake."""

    nonce: bytes


class Challenge(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """GREET, server to client."""

    nonce: bytes
    server: str
    token_required: bool


class Proof(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """PROVE, client to server: who is calling, and that it holds the token."""

    session: bytes
    lane: int
    acknowledged: int
    proof: bytes


class Welcome(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """PROVE, server to client.

    `resumed`: the server still knows this lane, and will not apply anything twice. `rails`: its RDMA devices, and where
    it has none, `no_rails` says why.
    """

    proof: bytes
    resumed: bool
    local_socket: str
    local_host: str
    rails: list[str] = []
    no_rails: str = ""


class Failure(msgspec.Struct, frozen=True):
    """The payload of a reply whose status is not OK."""

    kind: str
    message: str


_encoder = msgspec.msgpack.Encoder()
_request_decoder: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
T = TypeVar("T")


def encode(message: Any) -> bytes:
    """Any message as msgpack."""
    return _encoder.encode(message)


def decode(data: bytes | bytearray | memoryview, kind: type[T]) -> T:
    """Read msgpack as `kind`.

    Raises:
        ProtocolError: the bytes are no such message.
    """
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"not a valid {getattr(kind, '__name__', kind)} message: {error}") from None


def decode_request(data: bytes | bytearray | memoryview) -> Request:
    """Read the payload of CALL.

    Raises:
        ProtocolError: the bytes are no known request.
    """
    try:
        return _request_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"not a valid request: {error}") from None


def failure_of(error: Exception) -> Failure:
    """What of an exception crosses the wire: its kind and its text."""
    return Failure(type(error).__name__, str(error))


def exception_of(failure: Failure, server: str) -> Exception:
    """The exception that a `Failure` stands for, with the server's address in its text."""
    text = f"{failure.message} (memory server {server})"
    kind = getattr(errors, failure.kind, None)
    if isinstance(kind, type) and issubclass(kind, ModumError):
        return kind(text)
    return ValueError(text) if failure.kind == "ValueError" else ProtocolError(text)
