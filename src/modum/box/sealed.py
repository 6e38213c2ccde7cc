"""Encryption between hosts: keys that both ends agree on, and a socket whose bytes are sealed with them.

X25519 and HKDF make the keys, AES-256-GCM seals each record; docs/reference/wire-format.md says how. Who the other end
is, the proofs of the handshake say (`auth.py`), which cover both public keys.
"""

import errno
import socket
from collections.abc import Sequence
from typing import Final, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from modum.box.protocol.limits import RECORDS_PER_KEY, TAG_BYTES
from modum.box.protocol.messages import encode
from modum.errors import ProtocolError

_KEY_BYTES: Final = 32


class ForgedError(ConnectionError):
    """What came is not what the other end sent: it was changed, left out, repeated or reordered on the way."""


class Agreement:
    """One end's part in agreeing on the keys of one connection.

    Attributes:
        public: the public key, for the other end.
    """

    def __init__(self) -> None:
        self._private = X25519PrivateKey.generate()
        self.public = self._private.public_key().public_bytes_raw()

    def secret(self, theirs: bytes) -> bytes:
        """Return the secret that only the owners of both keys can calculate.

        Args:
            theirs: the other end's public key.

        Returns:
            32 bytes.

        Raises:
            ProtocolError: it is no public key.
        """
        try:
            return self._private.exchange(X25519PublicKey.from_public_bytes(theirs))
        except ValueError as error:
            raise ProtocolError(f"not a public key of X25519: {error}") from None


class Sealed:
    """A socket whose records are encrypted and authenticated, with the methods of a socket that a connection uses.

    Every buffer that one end sends is a record, and the other end receives it into a buffer of the same length. As
    with OpenSSL, whoever has sent or received a part of one goes on with the rest of it. What is received
    is seen only once all of the record has come and was found genuine.

    Args:
        connection: a connected socket.
        role: which end of it this is.
        secret: of the `Agreement`.
        *said: all that both ends said before; another one makes other keys.
    """

    def __init__(
        self, connection: socket.socket, role: Literal["client", "server"], secret: bytes, *said: str | bytes
    ) -> None:
        self.family = connection.family
        self._socket = connection
        self._role = role
        self._outbox = bytearray()
        self._unsent = memoryview(b"")
        self._owed = 0  # bytes of the caller that were not reported as sent
        self._inbox = bytearray()
        self._target: memoryview | None = None
        self._have = 0
        self._reported = 0
        self.derive_keys(secret, *said)

    def derive_keys(self, secret: bytes, *said: str | bytes) -> None:
        """Seal and open with new keys from now on.

        Args:
            secret: that they come from.
            *said: what both ends must have said alike.
        """
        info = encode(["modum encryption", *said])
        keys = HKDF(SHA256(), 2 * _KEY_BYTES, salt=None, info=info).derive(secret)
        up, down = _Key(keys[:_KEY_BYTES]), _Key(keys[_KEY_BYTES:])
        self._sending, self._receiving = (up, down) if self._role == "client" else (down, up)

    def sendmsg(self, parts: Sequence[bytes | memoryview], ancillary: Sequence[object] = (), flags: int = 0, /) -> int:
        """Send each part as a record, or go on with those that were begun; see `socket.socket.sendmsg`."""
        if ancillary:
            raise OSError(errno.EOPNOTSUPP, "descriptors cannot be passed between hosts")
        if not self._unsent:
            self._seal([part for part in parts if len(part)])
        sent = self._socket.send(self._unsent, flags)
        self._unsent = self._unsent[sent:]
        reported = min(sent, self._owed - 1) if self._unsent else self._owed
        self._owed -= reported
        return reported

    def send(self, data: bytes, flags: int = 0, /) -> int:
        """Send one record; see `sendmsg`."""
        return self.sendmsg([data], (), flags)

    def recv_into(self, target: memoryview, nbytes: int = 0, flags: int = 0, /) -> int:
        """Receive into `target`, which is as long as what is left of a record; see `socket.socket.recv_into`.

        Args:
            target: memory for the record, or for what is left of it.
            nbytes: 0, for all of it.
            flags: of recv(2).

        Returns:
            How many bytes came, or 0 if the connection has ended.

        Raises:
            ForgedError: the record is not what the other end sent; nothing of it was written into `target`.
            ConnectionError: the connection ended inside a record.
        """
        if self._target is None:
            self._target, self._have, self._reported = target, 0, 0
            if len(self._inbox) < len(target) + TAG_BYTES:
                self._inbox = bytearray(len(target) + TAG_BYTES)
        whole = self._target
        record = memoryview(self._inbox)[: len(whole) + TAG_BYTES]
        while True:
            count = self._socket.recv_into(record[self._have :], 0, flags)
            if not count:
                if self._have:
                    raise ConnectionError("the connection ended in the middle of a record")
                self._target = None
                return 0
            self._have += count
            if self._have == len(record):
                self._target = None
                self._receiving.open(record, whole)
                return len(whole) - self._reported
            if (more := min(self._have, len(whole) - 1) - self._reported) > 0:
                self._reported += more
                return more

    def fileno(self) -> int:
        """Return the descriptor, for `select.poll`."""
        return self._socket.fileno()

    def setsockopt(self, level: int, option: int, value: int, /) -> None:
        """Set an option of the socket."""
        self._socket.setsockopt(level, option, value)

    def shutdown(self, how: int, /) -> None:
        """Make whoever reads from it stop."""
        self._socket.shutdown(how)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _seal(self, parts: Sequence[bytes | memoryview]) -> None:
        self._owed = sum(map(len, parts))
        size = self._owed + TAG_BYTES * len(parts)
        if len(self._outbox) < size:
            self._outbox = bytearray(size)
        room = memoryview(self._outbox)
        start = 0
        for part in parts:
            end = start + len(part) + TAG_BYTES
            self._sending.seal(part, room[start:end])
            start = end
        self._unsent = room[:size]


class _Key:
    """The key of one direction. Every record has the next number for a nonce, and now and then there is a new key."""

    def __init__(self, key: bytes) -> None:
        self._begin(key)

    def _begin(self, key: bytes) -> None:
        self._key = key
        self._cipher = AESGCM(key)
        self._records = 0

    def _nonce(self) -> bytes:
        if self._records == RECORDS_PER_KEY:
            self._begin(HKDFExpand(SHA256(), _KEY_BYTES, b"modum next key").derive(self._key))
        self._records += 1
        return self._records.to_bytes(12, "little")

    def seal(self, data: bytes | memoryview, record: memoryview) -> None:
        self._cipher.encrypt_into(self._nonce(), data, None, record)

    def open(self, record: memoryview, target: memoryview) -> None:
        try:
            self._cipher.decrypt_into(self._nonce(), record, None, target)
        except InvalidTag:
            raise ForgedError(
                "what came is not what the other end sent: it was changed, left out, repeated or reordered on the way"
            ) from None
