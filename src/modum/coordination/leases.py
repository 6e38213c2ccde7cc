"""Hold a lease for as long as some work takes."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from modum.box import Box, Lease
from modum.errors import LeaseLostError, ModumError

__all__ = ["held"]

_RENEWALS: Final = 3
"""How often a lease is renewed within its time."""

_log = logging.getLogger("modum")


@contextmanager
def held(box: Box, name: str, *, ttl: float, timeout: float | None = None) -> Iterator[Lease]:
    """Hold the lease of this name inside the `with` block, however long the block takes: a thread renews it.

    A process that was stopped for longer than `ttl` loses it anyway, and the block is not interrupted then: what is
    done there must bear a second holder. `Lease.renew` says whether there can have been one so far.

    Args:
        box: where the lease is.
        name: the lease's.
        ttl: seconds after which a holder that is stopped, cut off or dead loses it.
        timeout: seconds to wait while somebody else holds it; None takes the box's.

    Yields:
        The lease.

    Raises:
        DeadlineError: somebody else still holds it; the message names the session.
    """
    lease = box.lock(name, ttl=ttl, timeout=timeout)
    over = threading.Event()
    renewing = threading.Thread(target=_keep, args=(lease, ttl / _RENEWALS, over), name="modum-held-lease", daemon=True)
    try:
        renewing.start()
        try:
            yield lease
        finally:
            over.set()
            renewing.join()
    finally:
        # what cannot be given back ends with the session, and the block's own error says more
        with suppress(ModumError):
            lease.release()


def _keep(lease: Lease, every: float, over: threading.Event) -> None:
    """Renew a lease until its work is over, or it is lost."""
    try:
        while not over.wait(every):
            try:
                lease.renew()
            except LeaseLostError:
                _log.warning("lease %r was lost: this process did not renew it in time", lease.name)
                return
            except ModumError as error:
                _log.info("lease %r could not be renewed, and will be tried again: %s", lease.name, error)
    except Exception:  # noqa: BLE001 - a thread has nobody above it to tell
        _log.exception("lease %r is not renewed any more", lease.name)
