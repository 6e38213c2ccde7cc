"""Messages: the payload of the frames CALL, GREET and PROVE, as msgpack (docs/reference/wire-format.md). No I/O."""

import hashlib
from typing import Any, Final, TypeGuard, TypeVar

import msgspec

from modum import errors
from modum.errors import ModumError, ProtocolError


class Message(msgspec.Struct, tag=True, frozen=True, forbid_unknown_fields=True):
    """Root of the requests that are made with CALL; its `type` on the wire is the name of the class."""


class Join(Message, frozen=True):
    """Compare the identity of the box: its servers in order, and which of them this one is. Answered with null."""

    servers: list[str]
    """Identifiers of the servers, as their greetings gave them."""
    addresses: list[str]
    """Their addresses, as this client names them."""
    index: int
    """Place of the server that is asked."""

    @property
    def digest(self) -> bytes:
        """What tells this place in this box from any other one."""
        return hashlib.sha256(encode([self.servers, self.index])).digest()


class Create(Message, frozen=True):
    """Make a zero-filled segment. Answered with `SegmentInfo`, also of one that is there in this incarnation."""

    name: str
    shape: list[int]
    dtype: str
    nbytes: int
    """Bytes of the whole buffer."""
    segment_bytes: int
    """Bytes of it that lie on this server."""
    meta: bytes
    """Packed as msgpack; the server does not look into it."""
    incarnation: int = 0
    """Of the buffer, as its home has answered; 0 asks the home, which decides."""
    restored: bool = False
    """As its home has answered: a part of this incarnation must be there already."""


class Open(Message, frozen=True):
    """Find a segment by the name of its buffer. Answered with `SegmentInfo`."""

    name: str


class Doom(Message, frozen=True):
    """Delete the home's segment of a buffer, and keep its name until `Delete` frees it.

    Answered with the incarnation.

    Attributes:
        name: of the buffer.
        incarnation: the one that is meant; 0 means whichever is there.
    """

    name: str
    incarnation: int = 0


class Doomed(Message, frozen=True):
    """Ask the home for the incarnation of the buffer that was deleted and whose name is kept.

    Answered with it, or with 0.
    """

    name: str


class Delete(Message, frozen=True):
    """Delete a segment that is not the home's, and free the name of a doomed one, up to an incarnation.

    Answered with null.
    """

    name: str
    incarnation: int


class ListBuffers(Message, frozen=True):
    """List segments by name. Answered with a page of `SegmentInfo`, which is empty behind the last one."""

    prefix: str = ""
    """Of the names."""
    after: str = ""
    """The last name of the page before."""


class Version(Message, frozen=True):
    """Ask for a version. Answered with it when it is at least `at_least`, or after `wait` seconds."""

    segment: int
    at_least: int = 0
    wait: float = 0.0


class Wake(Message, frozen=True):
    """Have those who wait for a version look at it: a client that maps the memory has raised it. Answered with null."""

    segment: int


class Publish(Message, frozen=True):
    """Raise a version by one. Answered with null."""

    segment: int


class CounterAdd(Message, frozen=True):
    """Add to a counter. Answered with its value before."""

    name: str
    amount: int


class CounterWait(Message, frozen=True):
    """Ask for a counter. Answered with its value when it is at least `at_least`, or after `wait` seconds."""

    name: str
    at_least: int
    wait: float


class LeaseAcquire(Message, frozen=True):
    """Take a lease for `ttl` seconds. Answered with [number of the grant, session that holds it].

    The number is 0 if somebody else still holds the lease after `wait` seconds.
    """

    name: str
    ttl: float
    wait: float


class LeaseRenew(Message, frozen=True):
    """Give a lease its whole time again. Answered with null."""

    name: str
    grant: int


class LeaseRelease(Message, frozen=True):
    """Give a lease up. Answered with null."""

    name: str
    grant: int


class ListLeases(Message, frozen=True):
    """List leases by name. Answered with a page of [name, session, seconds left], empty behind the last one."""

    prefix: str
    """Of the names."""
    after: str = ""
    """The last name of the page before."""


class QueueOpen(Message, frozen=True):
    """Make a work queue, or check that it has this size. Answered with null."""

    name: str
    size: int


class QueueTake(Message, frozen=True):
    """Take an item. Answered with [item, whether all are done]; the item is -1 if none came within `wait` seconds."""

    name: str
    wait: float


class QueueDone(Message, frozen=True):
    """Count an item as done, or hand it out again if it is `unfinished`. Answered with null."""

    name: str
    item: int
    unfinished: bool = False


class QueueLook(Message, frozen=True):
    """Ask how far a work queue is. Answered with [size, items that somebody holds, items done]."""

    name: str


class ValuePut(Message, frozen=True):
    """Set a value, packed as msgpack; an empty `value` deletes it, and an empty `expected` says that there is none.

    With `expected`, only if that is what is there now; answered with what was there before. Without, answered with
    nothing (empty bytes).
    """

    name: str
    value: bytes
    expected: bytes | None = None


class ValueGet(Message, frozen=True):
    """Ask for a value. Answered with its bytes as soon as there is one, or with nothing after `wait` seconds."""

    name: str
    wait: float = 0.0


class Link(Message, frozen=True):
    """Make, or make anew, the one-sided connection of a slot of this session. Answered with `Linked`."""

    slot: int
    rail: int
    """Number of the server's device that it goes through."""


class Reach(Message, frozen=True):
    """Ask for what a one-sided read of a segment needs. Answered with `Remote`."""

    segment: int
    rail: int
    """Number of the server's device that it goes through."""


class Look(Message, frozen=True):
    """Ask for the server's statistics. Answered with `ServerStatistics`."""


class TakeSnapshot(Message, frozen=True):
    """Have a snapshot written that begins now or later. Answered with its number among the server's attempts."""


class AwaitSnapshot(Message, frozen=True):
    """Ask how snapshots went. Answered with `SnapshotStatistics` once as many attempts have ended, or after `wait`."""

    attempt: int
    """Number of the attempt."""
    wait: float = 0.0
    """Seconds."""


class Bye(Message, frozen=True):
    """End the session at once: its leases and work items go back. Answered with null."""


Request = (
    Join
    | Create
    | Open
    | Doom
    | Doomed
    | Delete
    | ListBuffers
    | Version
    | Publish
    | Wake
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
    | TakeSnapshot
    | AwaitSnapshot
    | Bye
)


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Root of the messages whose place in the exchange says what they are: they have no `type` on the wire."""


class SegmentInfo(Answer, frozen=True):
    """What one server knows of a buffer."""

    name: str
    segment: int
    """Number of the segment on this server."""
    incarnation: int
    """Number of the buffer's segment on its home server: parts belong together if they have the same."""
    shape: list[int]
    dtype: str
    nbytes: int
    """Bytes of the whole buffer."""
    segment_bytes: int
    """Bytes of it that lie on this server."""
    version: int
    meta: bytes
    restored: bool = False
    """Whether it comes from a snapshot, with which its server was started."""


class Remote(Answer, frozen=True):
    """Memory of the server that a client may reach one-sidedly."""

    address: int
    """Where it lies in the server's process."""
    key: bytes
    """What UCX needs to reach it."""


class Linked(Answer, frozen=True):
    """Answers `Link`."""

    worker: bytes
    """Address of the server's UCX worker, which waits for this client alone."""
    device: str
    ring: Remote
    """The slot's ring, of `WINDOW` chunks."""


class SnapshotStatistics(Answer, frozen=True):
    """How one memory server's snapshots went since it started.

    Attributes:
        folder: of the server's snapshots, on its machine.
        attempts: how many have ended, well or not.
        taken: how many of them ended well.
        path: folder of the last good one; empty before the first.
        age: seconds since that one was begun: older than this nothing gets that is lost with the server.
        nbytes: of its files.
        seconds: that it took to write.
        failure: why the last attempt failed; empty if it did not.
        failure_age: seconds since then.
    """

    folder: str
    attempts: int = 0
    taken: int = 0
    path: str = ""
    age: float = 0.0
    nbytes: int = 0
    seconds: float = 0.0
    failure: str = ""
    failure_age: float = 0.0


class OwnerStatistics(Answer, frozen=True):
    """What the memory of one job takes on one server.

    Attributes:
        job: whose names begin with this and a slash.
        used: bytes of its buffers, and of what is kept beside them.
        limit: the most that it may take; 0 for as much as there is.
    """

    job: str
    used: int
    limit: int = 0


class Stand(Answer, frozen=True):
    """Who serves a place of a box in which servers stand in for each other.

    Attributes:
        view: its number.
        primary: number of the server that clients talk to.
        backup: number of the server that does the same; -1: there is none now.
    """

    view: int
    primary: int
    backup: int


class ServerStatistics(Answer, frozen=True):
    """What one memory server holds and has done since it started.

    Attributes:
        server: identifier of this run of the server.
        address: where it listens.
        process: its process ID.
        seconds: how long it has run.
        memory: limit of the pool in bytes.
        used: bytes of it that are taken.
        working: bytes beside it that connections keep for requests and replies under way.
        buffers: number of segments.
        clients: number of sessions.
        connections: number of open connections.
        operations: finished operations by name, those of clients that map the memory included.
        nbytes: bytes that they moved, likewise.
        faults: how often something failed that is the server's own fault or its machine's; its log says what.
        snapshots: how its snapshots went; None if it has no folder for them.
        owners: what the jobs that have tokens of their own take.
        stand: who serves this place of the box; None if nobody stands in for this server.
    """

    server: str
    address: str
    process: int
    seconds: float
    memory: int
    used: int
    working: int
    buffers: int
    clients: int
    connections: int
    operations: dict[str, int]
    nbytes: dict[str, int]
    faults: int
    snapshots: SnapshotStatistics | None = None
    owners: list[OwnerStatistics] = []
    stand: Stand | None = None


CLIENT: Final = "client"
"""Purpose of a connection: what clients come for."""
ALONE: Final = -1
"""In place of a place: the server has the same one for everybody, and nobody stands in for it."""


class Greeting(Answer, frozen=True):
    """GREET, client to server: opens the handshake."""

    nonce: bytes
    exchange: bytes = b""
    """Public key of X25519; empty for a connection that is not encrypted."""
    key: bytes = b""
    """Which token the client has; empty if it has none."""
    place: int = 0
    """Place in the box that is meant, where servers stand in for each other."""
    purpose: str = CLIENT
    """`client`, or what another server of the box comes for: `votes`, or `records`."""


class Challenge(Answer, frozen=True):
    """GREET, server to client."""

    nonce: bytes
    server: str
    """Identifier of this run of the server; empty for another server."""
    token_required: bool
    exchange: bytes = b""
    """Public key of X25519; empty if the server does not encrypt this connection."""
    place: int = ALONE
    """The place that was asked for, where servers stand in for each other."""


class Proof(Answer, frozen=True):
    """PROVE, client to server: who is calling, and that it holds the token."""

    session: bytes
    slot: int
    """Which slot of the session this connection is for."""
    attempt: int
    """Counts the client's connections of this slot: the newest one wins."""
    incarnation: bytes
    """What the server called the slot when the client got to know it; empty if the client has no such answer, and so
    has asked for nothing in it."""
    acknowledged: int
    """The last request of the slot whose reply has arrived."""
    timeout: float
    """Seconds without any progress after which the client gives up."""
    box: bytes
    """Digest of the `Join` by which the client belongs to a box; empty before it has joined."""
    proof: bytes


class Welcome(Answer, frozen=True):
    """PROVE, server to client."""

    proof: bytes
    resumed: bool
    """Whether the slot goes on where it was; otherwise it was made now."""
    incarnation: bytes
    """Random name of the slot as it is now, for the client to claim when it connects again."""
    applied: int
    """The last request of the slot that was applied; none is under way any more."""
    local_socket: str
    """Name of the server's abstract Unix socket."""
    local_host: str
    """Name of the server's kernel and network namespace: see `modum.box.sockets.local_host`."""
    rails: list[str] = []
    """Names of the server's RDMA devices, in order."""
    no_rails: str = ""
    """Why it has none."""
    job: str = ""
    """The job that the token is for: all names that it may use begin with this and a slash; empty for any name."""
    read_only: bool = False
    """Whether the token is for looking alone."""


class Failure(Answer, frozen=True):
    """The payload of a reply whose status is not OK."""

    kind: str
    """Name of a class of `modum.errors`, or `ValueError`."""
    message: str


_encoder = msgspec.msgpack.Encoder()
_request_decoder: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
T = TypeVar("T")


def encode(message: Any) -> bytes:
    """Return a message, or an answer of plain types, as msgpack.

    Args:
        message: of types that msgpack has.

    Returns:
        msgpack.

    Raises:
        ValueError: a whole number in it does not fit in 64 bits.
        TypeError: msgpack has no such type.
    """
    return packed(_encoder, message)


def packed(encoder: msgspec.msgpack.Encoder, message: Any) -> bytes:
    """Return a message as `encode` does, with an encoder of one's own."""
    try:
        return encoder.encode(message)
    except OverflowError as error:
        raise ValueError(f"a whole number does not fit in 64 bits: {error}") from None


def check_plain(value: Any) -> None:
    """Check that a value comes back as what it is: the encoder knows more types, and makes others of them.

    Args:
        value: that somebody is to read.

    Raises:
        TypeError: a set, say, would come back as a list, and a date as a text.
    """
    if isinstance(value, dict):
        for key, each in value.items():
            check_plain(key)
            check_plain(each)
    elif isinstance(value, list | tuple):
        for each in value:
            check_plain(each)
    elif not (value is None or isinstance(value, int | float | str | bytes | bytearray | memoryview)):
        raise TypeError(f"msgpack has no type for a value of {type(value).__name__}")


def decode(data: bytes | bytearray | memoryview, kind: type[T]) -> T:
    """Read msgpack as a value of the type `kind`.

    Args:
        data: msgpack.
        kind: of the value.

    Returns:
        The value.

    Raises:
        ProtocolError: the bytes are no such message.
    """
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"not a valid {getattr(kind, '__name__', kind)} message: {error}") from None


def decode_request(data: bytes | bytearray | memoryview) -> Request:
    """Read the payload of CALL.

    Args:
        data: msgpack.

    Returns:
        The request.

    Raises:
        ProtocolError: the bytes are no known request.
    """
    try:
        return _request_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"not a valid request: {error}") from None


def failure_of(error: Exception) -> Failure:
    """Return what of an exception crosses the wire: its text, and the nearest of its classes that both ends know."""
    known = (kind.__name__ for kind in type(error).__mro__ if kind is ValueError or _is_ours(kind))
    return Failure(next(known, type(error).__name__), str(error))


def exception_of(failure: Failure, server: str) -> Exception:
    """Return the exception that a `Failure` stands for, with the server's address in its text."""
    what, _, hint = failure.message.partition(". HINT: ")
    text = f"{what} (memory server {server})" + (f"\nHINT: {hint}" if hint else "")
    kind = getattr(errors, failure.kind, None)
    if isinstance(kind, type) and _is_ours(kind):
        return kind(text)
    return ValueError(text) if failure.kind == "ValueError" else ProtocolError(text)


def _is_ours(kind: type) -> TypeGuard[type[ModumError]]:
    return issubclass(kind, ModumError) and getattr(errors, kind.__name__, None) is kind
