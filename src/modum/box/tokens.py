"""The tokens of a box: who may do what in it, in a file that memory servers read again when it changes."""

import os
import stat
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from modum.box.auth import token_key
from modum.errors import AuthenticationError
from modum.units import parse_bytes


class Token(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One token, and what its holder may do."""

    token: str
    job: str = ""
    """All names that it may use begin with this and a slash; empty: any name."""
    read_only: bool = False
    expires: float = 0.0
    """Seconds since 1970 at which it ends; 0: never."""
    memory: str = ""
    """Most memory that the job may take on each server, such as 4GiB; empty: as much as there is."""
    revoked: bool = False

    def __repr__(self) -> str:  # without the token
        return f"Token({self.id}, job={self.job!r})"

    @property
    def key(self) -> bytes:
        """What a client calls the token, which it does not send."""
        return token_key(self.token)

    @property
    def id(self) -> str:
        """What people call the token."""
        return self.key.hex()

    def covers(self, name: str) -> bool:
        """Return whether something of this name may be used with it."""
        return not self.job or name.startswith(f"{self.job}/")

    def why_void(self, now: float) -> str | None:
        """Return why nobody may come in with it, or None."""
        if self.revoked:
            return f"token {self.id} was revoked"
        if 0 < self.expires <= now:
            ended = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.expires))
            return f"token {self.id} expired at {ended}"
        return None


class _File(msgspec.Struct, forbid_unknown_fields=True):
    tokens: list[Token]


EVERYTHING = Token("")
"""What may be done where the server has no token, or one."""


def is_token_list(path: Path) -> bool:
    """Return whether a file has a list of tokens, rather than one token as it is."""
    return path.read_bytes().lstrip().startswith(b"{")


def read_tokens(path: Path) -> list[Token]:
    """Return the tokens in a file.

    Args:
        path: of the file.

    Returns:
        The tokens, in order.

    Raises:
        ValueError: others than its owner may read it, or it is no list of tokens.
        OSError: it cannot be read.
    """
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise ValueError(f"token file {path} has mode {mode:04o}, others may read it: chmod 600 {path}")
    try:
        tokens = msgspec.json.decode(path.read_bytes(), type=_File).tokens
        for token in tokens:
            if token.memory:
                parse_bytes(token.memory)
    except (msgspec.DecodeError, ValueError) as error:
        raise ValueError(f"token file {path} is no list of tokens: {error}\nHINT: modum token make JOB") from None
    return tokens


def write_tokens(path: Path, tokens: Sequence[Token]) -> None:
    """Write tokens into a file that only its owner may read, in one step."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.touch(mode=0o600)
    new.write_bytes(msgspec.json.format(msgspec.json.encode(_File(list(tokens)))) + b"\n")
    new.replace(path)


class Tokens:
    """The tokens that one server takes. Thread-safe.

    Args:
        token: the one token; None lets everybody in. Not used with a file.
        path: of a file of tokens, which is read again when it changes.

    Raises:
        ValueError, OSError: see `read_tokens`.
    """

    def __init__(self, token: str | None, path: Path | None) -> None:
        self._path = path
        self._mutex = threading.Lock()
        self._seen: tuple[int, ...] = ()
        self._tokens: dict[bytes, Token] = {}
        self._one = token
        self.required = token is not None or path is not None
        if path is not None:
            self.refresh()

    def refresh(self) -> bool:
        """Read the file again if it has changed.

        Returns:
            Whether it had.

        Raises:
            ValueError, OSError: it cannot be read; what was read before holds, until it changes again.
        """
        if self._path is None:
            return False
        with self._mutex:
            state = self._path.stat()
            seen = (state.st_mtime_ns, state.st_size, state.st_ino)
            if seen == self._seen:
                return False
            self._seen = seen
            self._tokens = {each.key: each for each in read_tokens(self._path)}
            return True

    @property
    def shortest(self) -> str | None:
        """The token that is guessed first; None if there is none."""
        return min((each.token for each in self._tokens.values()), key=len, default=None)

    def find(self, key: bytes) -> Token | None:
        """Return the token that a client has, as far as it says; None if there is none."""
        if self._path is None:
            return Token(self._one or "")
        return self._tokens.get(key)

    def check(self, token: Token) -> None:
        """Check that somebody may still come, or stay, with a token.

        Args:
            token: that it has shown to hold.

        Raises:
            AuthenticationError: it was revoked, has expired, or is not in the file any more.
        """
        if self._path is None:
            return
        now = self._tokens.get(token.key)
        reason = f"token {token.id} was taken out of the server's file" if now is None else now.why_void(time.time())
        if reason:
            raise AuthenticationError(
                f"{reason}. HINT: make another with `modum token make {token.job}`, and export MODUM_TOKEN=..."
            )

    def limit_of(self, job: str) -> int | None:
        """Return the bytes that a job may take on this server; None for as many as there are."""
        now = time.time()
        own = [each for each in self._tokens.values() if each.job == job and job and not each.why_void(now)]
        limits = [parse_bytes(each.memory) for each in own if each.memory]
        return max(limits) if limits and all(each.memory or each.read_only for each in own) else None

    def jobs(self) -> list[str]:
        """Return the jobs that have tokens."""
        return sorted({each.job for each in self._tokens.values() if each.job})
