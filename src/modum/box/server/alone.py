"""A memory server for which nobody stands in: it has one place of the box, and its clients map or reach its memory."""

from collections.abc import Callable
from pathlib import Path

from modum.box.protocol.messages import Greeting, Stand, Welcome
from modum.box.server.core import Core
from modum.box.server.restore import restore
from modum.box.sockets import Stream
from modum.box.tokens import Token
from modum.errors import ProtocolError


class Alone:
    """Has every client served by one core.

    Args:
        core: serves them.
        folder: of the snapshots with which it begins; None: with nothing.
        welcome: makes the last message of the handshake.
    """

    replicated = False

    def __init__(
        self, core: Core, folder: Path | None, welcome: Callable[[Core, bytes, bool, bytes, int, Token], Welcome]
    ) -> None:
        self._core = core
        self._folder = folder
        self.welcome = welcome

    def start(self, address: str) -> str:
        """Take over a snapshot if there is to be one, and say which in words."""
        core = self._core
        restored = restore(self._folder, core.segments, core.primitives, core.membership) if self._folder else ""
        if core.snapshots:
            core.snapshots.start(address, restored=bool(restored))
        return restored

    def core(self, place: int) -> Core:
        """Return the core: see `Hall`."""
        return self._core

    def cores(self) -> list[Core]:
        """Return all that is served here."""
        return [self._core]

    def stands(self) -> dict[int, Stand]:
        """Return nothing: nobody stands in for this server."""
        return {}

    @property
    def votes(self) -> bool:
        """Return False: there is nothing to vote on."""
        return False

    def peer(self, greeting: Greeting, connection: Stream) -> None:
        """Refuse: see `Hall`."""
        raise ProtocolError(f"this server stands alone: nobody has anything to do here for {greeting.purpose!r}")

    def stop(self) -> None:
        """End what waits, and what writes."""
        self._core.stop()

    def close(self) -> None:
        """Give everything back."""
        self._core.close()
