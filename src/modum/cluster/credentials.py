"""Read the job's token and the requested transport, from this process's environment or a file."""

import os
import stat
from pathlib import Path
from typing import Final

__all__ = [
    "ENCRYPT_VARIABLE",
    "TOKEN_VARIABLE",
    "TRANSPORT_VARIABLE",
    "child_environment",
    "encrypts",
    "token",
    "transport",
]

TOKEN_VARIABLE: Final = "MODUM_TOKEN"
ENCRYPT_VARIABLE: Final = "MODUM_ENCRYPT"
TRANSPORT_VARIABLE: Final = "MODUM_TRANSPORT"


def token(path: str | os.PathLike[str] | None = None) -> str | None:
    """Return the job's token: from a file if `path` names one, else from MODUM_TOKEN, else None.

    Args:
        path: path of a file that only its owner may read, or None.

    Returns:
        The token, or None.

    Raises:
        ValueError: the file is empty, or users other than its owner may read it.
        OSError: the file cannot be read.
    """
    if path is None:
        return os.environ.get(TOKEN_VARIABLE) or None
    mode = stat.S_IMODE(Path(path).stat().st_mode)
    if mode & 0o077:
        raise ValueError(f"token file {path} has mode {mode:04o}, others may read it: chmod 600 {path}")
    text = Path(path).read_text(encoding="utf-8").strip()
    if not text:
        raise ValueError(f"token file {path} is empty")
    return text


def transport() -> str | None:
    """Return the transport that MODUM_TRANSPORT names, or None; `Box.connect` checks the name."""
    return os.environ.get(TRANSPORT_VARIABLE) or None


def encrypts() -> bool:
    """Return whether MODUM_ENCRYPT asks for memory servers that encrypt.

    Returns:
        Whether it does.

    Raises:
        ValueError: it is neither 1 nor 0.
    """
    text = os.environ.get(ENCRYPT_VARIABLE) or "0"
    if text not in ("0", "1"):
        raise ValueError(f"{ENCRYPT_VARIABLE}={text!r} is neither 1 nor 0\nHINT: export {ENCRYPT_VARIABLE}=1")
    return text == "1"


def child_environment(token: str) -> dict[str, str]:
    """Return this process's environment with the token of a job, for a memory server that this process starts."""
    return {**os.environ, TOKEN_VARIABLE: token}
