"""Messages: the payload of the frames CALL, GREET and PROVE, as msgpack (docs/wire-format.md). No I/O."""

from typing import Any, TypeVar

import msgspec

from modum import errors
from modum.errors import ModumError, ProtocolError


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


class ValuePut(Message, frozen=True):
    """Sets a value, packed as msgpack; an empty `value` deletes it, and an empty `expected` says that there is none.

    With `expected`, only if that is what is there now; the answer is what was there before. Without, it is empty.
    """

    name: str
    value: bytes
    expected: bytes | None = None


class ValueGet(Message, frozen=True):
    """Answered with the packed value as soon as there is one, or with nothing after `wait` seconds."""

    name: str
    wait: float = 0.0


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
    | ValuePut
    | ValueGet
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
