"""The soft memory box: memory servers pooled into one shared memory that clients read, write and accumulate into."""

from modum.box.auth import new_token, read_token
from modum.box.buffer import Buffer, BufferInfo
from modum.box.client import Box, BoxStatistics
from modum.box.handles import Counter, Lease, LeaseInfo, QueueStatistics, WorkQueue
from modum.box.server import Server
from modum.box.sizes import format_bytes, parse_bytes
from modum.box.transport import TRANSPORTS
from modum.box.wire import ServerStatistics

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
    "Server",
    "ServerStatistics",
    "WorkQueue",
    "format_bytes",
    "new_token",
    "parse_bytes",
    "read_token",
]
