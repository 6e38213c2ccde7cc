"""The seam between a buffer and a memory server: one way to one server.

A transport moves the pieces of one operation that lie on its server. Control messages go over the authenticated
connections of `lane.py` in every transport.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from modum.box.client.connection import Connection, ConnectionPool, Pending
from modum.box.kernels import Array
from modum.box.protocol.frames import Header, Op
from modum.box.protocol.layout import Piece
from modum.box.protocol.limits import MAX_WAIT
from modum.box.protocol.messages import Bye, Publish, Request, SegmentInfo, Version, decode, encode

T = TypeVar("T")


@dataclass(slots=True)
class Attachment:
    """One client's hold on a buffer's segment on one server."""

    info: SegmentInfo

    def close(self) -> None:
        """Let go of it."""


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
        difference: EXCHANGE leaves d in `data`.
        publish: the version of the buffer goes up when this is done.
        patience: seconds without any progress after which to give up.
    """

    op: Op
    target: Attachment
    pieces: Sequence[Piece]
    data: Array | None = None
    source: Attachment | None = None
    factor: Any = 0.0
    difference: bool = False
    publish: bool = False
    patience: float

    def __str__(self) -> str:
        """What stands in front of errors."""
        return f"{self.op.name.lower()} on buffer {self.target.info.name!r}"


class Transport(ABC):
    """One client's way to one memory server. Thread-safe."""

    name: ClassVar[str]

    def __init__(self, lanes: ConnectionPool) -> None:
        self.lanes = lanes

    @property
    def address(self) -> str:
        """The server, as the user named it."""
        return self.lanes.endpoint.address

    @property
    def route(self) -> str:
        """How the server is reached, for people: the transport, and what else tells one way from another."""
        return self.name

    def leave(self, patience: float) -> None:
        """Say goodbye: the session's leases and work items go back at once."""
        self.call(Bye(), type(None), patience)

    @classmethod
    @abstractmethod
    def unavailable(cls) -> str | None:
        """Why this machine cannot use the transport; None if it can."""

    @abstractmethod
    def attach(self, info: SegmentInfo, patience: float) -> Attachment:
        """Take hold of a segment."""

    @abstractmethod
    def run(self, work: Work) -> None:
        """Do the work and return when it is acknowledged.

        Raises:
            ModumError: see `Connection.transact` and `apply`; what was not acknowledged may have been applied, once.
        """

    def call(self, request: Request, kind: type[T], patience: float) -> T:
        """Make a request; its answer, of type `kind`."""
        with self.lanes.lane() as lane:
            return call(lane, request, kind, patience)

    def version(self, attachment: Attachment, patience: float, at_least: int = 0) -> int:
        """The buffer's version, once it is `at_least` that or a moment has gone by."""
        wait = MAX_WAIT if at_least else 0.0
        return self.call(Version(attachment.info.segment, at_least, min(wait, patience)), int, patience + wait)

    def publish(self, attachment: Attachment, patience: float) -> None:
        """Raise the version of the buffer that `attachment` belongs to."""
        self.call(Publish(attachment.info.segment), type(None), patience)

    def close(self) -> None:
        """Close the connections."""
        self.lanes.close()


def call(lane: Connection, request: Request, kind: type[T], patience: float) -> T:
    """Make a request over one connection; its answer, of type `kind`."""
    payload = encode(request)
    pending = Pending(Header(Op.CALL, 0, len(payload)), payload)
    lane.transact([pending], patience, f"request {type(request).__name__}")
    return decode(pending.reply, kind)
