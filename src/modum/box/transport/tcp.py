"""TCP: chunks are pipelined over plain sockets, and the server applies each as it lands."""

from modum.box.protocol.messages import SegmentInfo
from modum.box.transport.base import Attachment, Transport, Work
from modum.box.transport.requests import frames


class TcpTransport(Transport):
    """The server moves and combines the numbers; what crosses the wire is what the operation needs, once."""

    name = "tcp"

    @classmethod
    def unavailable(cls) -> str | None:
        """Every machine has TCP."""
        return None

    def attach(self, info: SegmentInfo, patience: float) -> Attachment:
        """Nothing to do: the server knows the segment by its number."""
        return Attachment(info)

    def run(self, work: Work) -> None:
        """See `Transport.run`."""
        with self.lanes.lane() as lane:
            lane.transact(frames(work), work.patience, work)
