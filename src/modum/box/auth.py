"""Who may connect: both sides show by HMAC-SHA256 that they hold the job's token, which never crosses the wire."""

import hashlib
import hmac
import ipaddress
import secrets
from typing import Final

from modum.box.protocol.limits import NONCE_BYTES
from modum.box.protocol.messages import encode

SHORTEST_TOKEN: Final = 16
"""Characters of a token for a server beyond loopback: whoever hears one handshake can try out shorter ones."""


def new_token() -> str:
    """Return a fresh random token of 256 bits, as URL-safe text."""
    return secrets.token_urlsafe(32)


def new_nonce() -> bytes:
    """Return random bytes to be used once, for one handshake."""
    return secrets.token_bytes(NONCE_BYTES)


def proof(token: str | None, role: str, *claim: str | bytes | int | float) -> bytes:
    """Return what one side sends to show that it holds the token, and that it says all of this.

    Args:
        token: the job's token; None counts as an empty one.
        role: "client" or "server", so that neither side's proof can be sent back to it.
        *claim: the nonces of this handshake, and whatever may not be changed on the way.

    Returns:
        The proof, to be compared with `proof_matches`.
    """
    return hmac.digest((token or "").encode(), encode(["modum", role, *claim]), "sha256")


def token_key(token: str) -> bytes:
    """Return what a client calls its token, which it does not send: 8 bytes of a hash."""
    return hashlib.sha256(b"modum token " + token.encode()).digest()[:8]


def public_name(session: bytes) -> str:
    """Return what a client is called by others, who must not learn by it what makes its session its own.

    Args:
        session: the random bytes that only the client and its servers know.

    Returns:
        32 hexadecimal digits.
    """
    return hashlib.sha256(b"modum session " + session).hexdigest()[:32]


def proof_matches(given: bytes, expected: bytes) -> bool:
    """Compare two proofs in constant time."""
    return hmac.compare_digest(given, expected)


def is_loopback(host: str) -> bool:
    """Return whether listening on `host` can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_exposure(host: str, token: str | None) -> None:
    """Refuse to listen where strangers could come in.

    Args:
        host: address to listen on.
        token: the job's token, or None.

    Raises:
        ValueError: `host` is not a loopback address, and there is no token, or one that can be guessed.
    """
    if is_loopback(host) or (token and len(token) >= SHORTEST_TOKEN):
        return
    if token:
        problem = f"with a token of {len(token)} characters: it takes {SHORTEST_TOKEN} to be beyond guessing"
    else:
        problem = "without a token: anybody who reaches it could read and change the memory"
    raise ValueError(
        f"refusing to listen on {host} {problem}."
        " HINT: export MODUM_TOKEN=$(python -c 'import secrets; print(secrets.token_urlsafe(32))') for"
        " `modum server` and its clients (in Python: Server(token=...)), or listen on 127.0.0.1"
    )


def check_encryption(token: str | None, *, encrypt: bool) -> None:
    """Refuse to encrypt for anybody: somebody in the middle could then be either end.

    Args:
        token: the job's token, or None.
        encrypt: whether connections are to be encrypted.

    Raises:
        ValueError: they are, and there is no token.
    """
    if encrypt and not token:
        raise ValueError(
            "encryption needs a token, by which both ends know each other."
            " HINT: export MODUM_TOKEN=$(python -c 'import secrets; print(secrets.token_urlsafe(32))')"
        )
