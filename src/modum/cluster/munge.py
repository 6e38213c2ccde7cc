"""Pass secrets between processes of one user on machines of one cluster, with MUNGE, which Slurm itself relies on.

libmunge is loaded on first use; besides it, only MUNGE's daemon is needed. Functions and constants
are those of munge.h (MUNGE's public C interface).
"""

import ctypes
import os
from functools import cache

from modum.errors import ModumError

__all__ = ["MungeError", "seal", "unseal"]

_UID_RESTRICTION = 8  # MUNGE_OPT_UID_RESTRICTION


class MungeError(ModumError):
    """MUNGE is missing, or refused a secret or credential."""


def seal(secret: bytes) -> bytes:
    """Make a credential from which only processes of this user, in this cluster, can take `secret`.

    Args:
        secret: the secret to pass on.

    Returns:
        The credential, printable.

    Raises:
        MungeError: libmunge or the daemon is missing.
    """
    library = _library()
    context = ctypes.c_void_p(library.munge_ctx_create())
    credential = ctypes.c_char_p()
    try:
        library.munge_ctx_set(context, ctypes.c_int(_UID_RESTRICTION), ctypes.c_uint(os.geteuid()))
        _check(library.munge_encode(ctypes.byref(credential), context, secret, len(secret)))
        assert credential.value is not None
        return credential.value
    finally:
        _free(credential)
        library.munge_ctx_destroy(context)


def unseal(credential: bytes) -> bytes:
    """Return the secret in a credential that a process of the same user sealed.

    Args:
        credential: from `seal`.

    Returns:
        The secret.

    Raises:
        MungeError: it was made for another user, is expired or was used before, or another user made it.
    """
    library = _library()
    secret, size, user, group = ctypes.c_void_p(), ctypes.c_int(), ctypes.c_uint(), ctypes.c_uint()
    try:
        _check(
            library.munge_decode(
                credential, None, ctypes.byref(secret), ctypes.byref(size), ctypes.byref(user), ctypes.byref(group)
            )
        )
        if user.value != os.geteuid():
            raise MungeError(f"a credential of user {user.value} came where one of user {os.geteuid()} was expected")
        return ctypes.string_at(secret, size.value)
    finally:
        _free(secret)


@cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libmunge.so.2")
    except OSError as error:
        raise MungeError(f"MUNGE is not installed here: {error}") from None
    library.munge_ctx_create.restype = ctypes.c_void_p
    library.munge_strerror.restype = ctypes.c_char_p
    return library


def _check(error: int) -> None:
    if error:
        raise MungeError(f"MUNGE: {_library().munge_strerror(error).decode()}")


def _free(pointer: "ctypes.c_void_p | ctypes.c_char_p") -> None:
    libc = ctypes.CDLL(None)
    libc.free.argtypes = [ctypes.c_void_p]
    libc.free(ctypes.cast(pointer, ctypes.c_void_p))
