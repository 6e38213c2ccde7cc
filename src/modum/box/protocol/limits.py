"""Every limit of the protocol and of a server, in one place: what is checked before a byte is allocated."""

from typing import Final

HEADER_BYTES: Final = 64
CHUNK: Final = 1 << 20  # bytes under one lock, and at most in one data frame
STRIPE: Final = 4 << 20  # bytes of a buffer that lie on one server before the next one's turn, at most
WINDOW: Final = 4  # requests of one lane that may be unanswered
SESSION_BYTES: Final = 16  # random ones, that name a client
MAX_MESSAGE: Final = 16 << 20  # bytes of a control message
MAX_GREETING: Final = 4 << 10  # bytes of a message from somebody not yet authenticated
MAX_NAME: Final = 255  # bytes of a name in UTF-8
MAX_DIMENSIONS: Final = 32
MAX_VALUE: Final = 1 << 20  # bytes of one small shared value, packed
MAX_VALUES: Final = 16384  # values that one server keeps
MAX_WAIT: Final = 1.0  # seconds that a server keeps a waiting request before it says "not yet"
