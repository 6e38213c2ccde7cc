"""The soft memory box: memory servers pooled into one shared memory that clients read, write and accumulate into."""

from typing import TYPE_CHECKING

from modum._lazy import attach

if TYPE_CHECKING:
    from modum.box.auth import new_token
    from modum.box.box import Box, BoxStatistics
    from modum.box.buffer import Buffer, BufferInfo
    from modum.box.primitives import Counter, Lease, LeaseInfo, QueueStatistics, Value, WorkQueue
    from modum.box.protocol.messages import ServerStatistics, SnapshotStatistics, Stand
    from modum.box.server.replication.ring import Replication
    from modum.box.server.server import Server
    from modum.box.server.snapshots import SnapshotSettings
    from modum.box.transport import TRANSPORTS

__all__ = [
    "TRANSPORTS",
    "Box",
    "BoxStatistics",
    "Buffer",
    "BufferInfo",
    "Counter",
    "Lease",
    "LeaseInfo",
    "QueueStatistics",
    "Replication",
    "Server",
    "ServerStatistics",
    "SnapshotSettings",
    "SnapshotStatistics",
    "Stand",
    "Value",
    "WorkQueue",
    "new_token",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "modum.box.auth": ("new_token",),
        "modum.box.box": ("Box", "BoxStatistics"),
        "modum.box.buffer": ("Buffer", "BufferInfo"),
        "modum.box.primitives": ("Counter", "Lease", "LeaseInfo", "QueueStatistics", "Value", "WorkQueue"),
        "modum.box.protocol.messages": ("ServerStatistics", "SnapshotStatistics", "Stand"),
        "modum.box.server.replication.ring": ("Replication",),
        "modum.box.server.server": ("Server",),
        "modum.box.server.snapshots": ("SnapshotSettings",),
        "modum.box.transport": ("TRANSPORTS",),
    },
)
