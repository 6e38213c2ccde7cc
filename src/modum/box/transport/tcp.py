"""TCP: chunks are pipelined over plain sockets, and the server applies each as it lands."""

from typing import Self

from modum.box.client.pool import ConnectionPool
from modum.box.protocol.messages import SegmentInfo, Welcome
from modum.box.transport.base import Attachment, Transport, Work
from modum.box.transport.requests import frames


class TcpTransport(Transport):
    """The server moves and combines the numbers; what crosses the wire is what the operation needs, once."""

    name = "tcp"

    @classmethod
    def why_not(cls, welcome: Welcome | None = None) -> str | None:
        """Return None: every machine has TCP."""
        return None

    @classmethod
    def open(cls, connections: ConnectionPool, welcome: Welcome, *, threads: int, timeout: float) -> Self:
        """Use the connections as they are."""
        return cls(connections)

    def attach(self, info: SegmentInfo, timeout: float) -> Attachment:
        """Do nothing: the server knows the segment by its number."""
        return Attachment(info)

    def run(self, work: Work) -> None:
        """Send the requests and take the replies: see `Transport.run`."""
        with self.connections.connection(work.timeout, work) as connection:
            connection.transact(frames(work), work.timeout, work)
