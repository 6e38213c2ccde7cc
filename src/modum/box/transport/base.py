"""The seam between a buffer and a memory server: one way to one server.

A transport moves the pieces of one operation that lie on its server. Control messages go over the authenticated
connections of `modum.box.client` in every transport.

A new transport is a subclass of `Transport` in a file of its own, and its class in `modum.box.transport.TRANSPORTS`;
`modum.testing.check_transport` says whether it is one.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeVar

from modum.box.client.connection import Connection
from modum.box.client.pending import Pending
from modum.box.client.pool import ConnectionPool
from modum.box.compression import Compression
from modum.box.kernels import Array, Leave
from modum.box.protocol.frames import Header, Op
from modum.box.protocol.layout import Piece
from modum.box.protocol.limits import MAX_MESSAGE, MAX_WAIT
from modum.box.protocol.messages import Bye, Publish, Request, SegmentInfo, Version, Welcome, decode, encode

T = TypeVar("T")


@dataclass(slots=True)
class Attachment:
    """One client's hold on a buffer's segment on one server.

    Attributes:
        info: what the server says of the segment.
    """

    info: SegmentInfo

    def close(self) -> None:
        """Let go of the segment."""


@dataclass(slots=True, kw_only=True)
class Work:
    """The part of one operation that one server does.

    Attributes:
        op: a data operation.
        target: the segment that is read or changed.
        pieces: parts that share no chunk, in order.
        data: the caller's 1-D contiguous array for READ, WRITE, ADD, EXCHANGE; the pieces' `start` counts in its bytes.
        source: the other segment of COPY, SCALE, AXPY.
        factor: scale, moving rate or factor; a scalar from `factor_for`.
        leave: what EXCHANGE leaves in `data`: see `modum.box.Buffer.exchange`.
        compression: how the numbers of EXCHANGE travel. A transport that moves them otherwise than in the frames of
            the wire format does without.
        publish: the version of the buffer goes up when this is done.
        timeout: seconds without any progress after which to give up.
    """

    op: Op
    target: Attachment
    pieces: Sequence[Piece]
    data: Array | None = None
    source: Attachment | None = None
    factor: Any = 0.0
    leave: Leave = "moved"
    compression: Compression | None = None
    publish: bool = False
    timeout: float

    def __str__(self) -> str:
        """Return what stands in front of errors."""
        return f"{self.op.name.lower()} on buffer {self.target.info.name!r}"


class Transport(ABC):
    """One client's way to one memory server. Thread-safe.

    Args:
        connections: authenticated connections to the server; the transport closes them.
    """

    name: ClassVar[str]
    """What the user calls it."""
    plain: ClassVar[bool] = False
    """Whether bytes cross the network as they are, though the address of the server asks for encryption."""

    def __init__(self, connections: ConnectionPool) -> None:
        self.connections = connections
        self.job = ""  # that the token is for, if it is for one alone

    @classmethod
    @abstractmethod
    def why_not(cls, welcome: Welcome | None = None) -> str | None:
        """Return why the transport cannot be used, or None if nothing speaks against it.

        Args:
            welcome: what the server said of itself; None asks only whether this machine could use the transport.

        Returns:
            The reason, in words for an error, or None.
        """

    @classmethod
    @abstractmethod
    def open(cls, connections: ConnectionPool, welcome: Welcome, *, threads: int, timeout: float) -> Self:
        """Take over the connections to a server and make the way to it, for which `why_not` found no obstacle.

        Args:
            connections: a pool whose first connection is made. The transport may use it, or close it for another.
            welcome: what the server said of itself.
            threads: how many threads an operation may use where the client computes.
            timeout: seconds.

        Returns:
            The transport, which owns the connections.

        Raises:
            TransportError: the way cannot be made after all; the message says why, and `connections` are as they were.
            ConnectionLostError, DeadlineError: the server cannot be reached any more.
        """

    @property
    def address(self) -> str:
        """The server, as the user named it."""
        return self.connections.endpoint.address

    @property
    def server(self) -> str:
        """Identifier of the server's run."""
        return self.connections.endpoint.server

    @property
    def route(self) -> str:
        """How the server is reached, for people: the transport, and what else tells one way from another."""
        return self.name

    @abstractmethod
    def attach(self, info: SegmentInfo, timeout: float) -> Attachment:
        """Take hold of a segment.

        Args:
            info: of the segment, as the server tells it.
            timeout: seconds.

        Returns:
            The hold on the segment.

        Raises:
            BufferNotFoundError: it was deleted.
            ConnectionLostError, DeadlineError: the server cannot be reached any more.
        """

    @abstractmethod
    def run(self, work: Work) -> None:
        """Do the work, and return when it is acknowledged.

        Args:
            work: an operation on one segment.

        Raises:
            ModumError: see `Connection.transact` and `apply`; what was not acknowledged may have been applied, once.
        """

    def call(self, request: Request, kind: type[T], timeout: float) -> T:
        """Make a request, and return its answer of the type `kind`.

        Args:
            request: to the server.
            kind: of the answer.
            timeout: seconds.

        Returns:
            The answer.

        Raises:
            ModumError, ValueError: what the server reported, or it cannot be reached any more.
        """
        with self.connections.connection(timeout, f"request {type(request).__name__}") as connection:
            return call(connection, request, kind, timeout)

    def version(self, attachment: Attachment, timeout: float, at_least: int = 0) -> int:
        """Return the buffer's version once it is `at_least` that, or after a moment (`MAX_WAIT`) whatever it is."""
        wait = MAX_WAIT if at_least else 0.0
        return self.call(Version(attachment.info.segment, at_least, min(wait, timeout)), int, timeout + wait)

    def publish(self, attachment: Attachment, timeout: float) -> None:
        """Raise the version of the buffer that `attachment` belongs to."""
        self.call(Publish(attachment.info.segment), type(None), timeout)

    def leave(self, timeout: float) -> None:
        """Say goodbye: the session's leases and work items go back at once."""
        self.call(Bye(), type(None), timeout)

    def close(self) -> None:
        """Close the connections."""
        self.connections.close()


def call(connection: Connection, request: Request, kind: type[T], timeout: float) -> T:
    """Make a request over one connection, and return its answer of the type `kind`."""
    payload = encode(request)
    if len(payload) > MAX_MESSAGE:
        raise ValueError(
            f"request {type(request).__name__} has {len(payload)} bytes, and {MAX_MESSAGE} are the most: larger things"
            " belong into a buffer"
        )
    pending = Pending(Header(Op.CALL, 0, len(payload)), payload)
    connection.transact([pending], timeout, f"request {type(request).__name__}")
    return decode(pending.reply, kind)
