"""Every limit of the protocol, of servers and of clients, in one place: what is checked before a byte is allocated."""

from typing import Final

# ---- frames and messages

HEADER_BYTES: Final = 64
"""Bytes of the fixed header of a frame."""
CHUNK: Final = 1 << 20
"""Bytes of a segment under one lock; also the most numbers, in bytes, that one frame carries."""
STRIPE: Final = 4 << 20
"""Most bytes of a buffer that lie together on one server before the next server's turn."""
WINDOW: Final = 4
"""Requests of one slot that may be unanswered at one time."""
SESSION_BYTES: Final = 16
"""Random bytes that name a client."""
INCARNATION_BYTES: Final = 8
"""Random bytes that tell a slot from an earlier one of its number."""
NONCE_BYTES: Final = 32
"""Random bytes that each side adds to a handshake."""
TAG_BYTES: Final = 16
"""Bytes by which an encrypted record is longer than what it holds."""
RECORDS_PER_KEY: Final = 1 << 16
"""Records after which a direction of an encrypted connection takes its next key."""
MAX_MESSAGE: Final = 16 << 20
"""Bytes of a control message."""
MAX_GREETING: Final = 4 << 10
"""Bytes of a message from somebody who has not been authenticated yet."""
MAX_NAME: Final = 255
"""Bytes of a name in UTF-8."""
MAX_DIMENSIONS: Final = 32
"""Extents of a buffer's shape."""
MAX_BUFFER: Final = 1 << 62
"""Bytes of a buffer on all servers together; sizes of files, and of what crosses the wire, have 64 bits."""
MAX_VALUE: Final = 1 << 20
"""Bytes of one small shared value, packed as msgpack."""
MAX_META: Final = 4 << 20
"""Bytes of what is said of a buffer, as msgpack: a page of a list, and one more, fit into a message."""

# ---- a server

MAX_STRANGERS: Final = 64
"""Connections that may be in the handshake at one time, and as many again over the Unix socket."""
HANDSHAKE_SECONDS: Final = 10.0
"""Seconds that a handshake may take from its beginning to its end."""
MAX_SESSIONS: Final = 4096
"""Clients of one server."""
MAX_SLOTS: Final = 256
"""Slots of one session, which is connections of one client."""
PAGE_BYTES: Final = 1 << 20
"""Bytes of answers after which a list goes on in another page."""
SMALL_CHANGE: Final = 16 << 20
"""Bytes beside buffers, such as small values, that a server keeps without counting them against its pool."""
NAME_BYTES: Final = 256
"""Bytes that a counter, lease or queue counts for, beside its name."""
MIN_WORKING: Final = 512 << 20
"""Bytes that all connections together may keep for requests under way and their replies; a quarter of the pool if that
is more."""
MAX_VALUES: Final = 16384
"""Small shared values that one server keeps."""
MAX_WAIT: Final = 1.0
"""Seconds that a server keeps a request that waits for something, before it answers that it has not happened yet."""
LOCK_TIMEOUT: Final = 10.0
"""Seconds that a request waits for a locked chunk."""
GRACE: Final = 2.0
"""Seconds without any connection after which a client counts as dead, unless the server is told otherwise."""
DEFAULT_MEMORY: Final = 8 << 30
"""Bytes of a server's pool, unless it is told otherwise."""

# ---- a client

TIMEOUT: Final = 30.0
"""Seconds without any progress after which a call gives up, unless the box is told otherwise."""
REFUSED_SECONDS: Final = 2.0
"""Seconds after which a server whose port is closed counts as gone."""

# ---- both ends of a connection

DEFAULT_PORT: Final = 7500
"""TCP port of an address that names none."""
STALL_SECONDS: Final = 30.0
"""Seconds without a byte in the middle of a frame after which the other side is given up."""
KEEPALIVE: Final = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
"""Options of TCP with which a host that vanished is noticed in 30 s while nothing is under way."""
USER_TIMEOUT: Final = 30.0
"""Seconds after which a host that vanished is noticed while something is: TCP sends it again for a quarter of an hour
otherwise."""
