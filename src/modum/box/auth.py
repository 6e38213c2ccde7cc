"""Who may connect: both sides show by HMAC-SHA256 that they hold the job's token, which never crosses the wire."""

import hmac
import ipaddress
import secrets
from typing import Final

NONCE_BYTES: Final = 32


def new_token() -> str:
    """A fresh random token of 256 bits, as URL-safe text."""
    return secrets.token_urlsafe(32)


def new_nonce() -> bytes:
    """Bytes that are used once, for one handshake."""
    return secrets.token_bytes(NONCE_BYTES)


def proof(token: str | None, role: str, session: bytes, lane: int, client_nonce: bytes, server_nonce: bytes) -> bytes:
    """What `role` ("client" or "server") sends to show that it holds the token; no token counts as an empty one."""
    text = b"\0".join([b"modum", role.encode(), session, str(lane).encode(), client_nonce.hex().encode(), server_nonce])
    return hmac.digest((token or "").encode(), text, "sha256")


def proof_matches(given: bytes, expected: bytes) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(given, expected)


def is_loopback(host: str) -> bool:
    """Whether listening on `host` is reachable from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_exposure(host: str, token: str | None) -> None:
    """Refuse to listen where strangers could come in.

    Raises:
        ValueError: `host` is not a loopback address and there is no token.
    """
    if not token and not is_loopback(host):
        raise ValueError(
            f"refusing to listen on {host} without a token: anybody who reaches it could read and change the memory."
            " HINT: export MODUM_TOKEN=$(python -c 'import secrets; print(secrets.token_urlsafe(32))') for"
            " `modum server` and its clients (in Python: Server(token=...)), or listen on 127.0.0.1"
        )
