"""Who does what a client asks for, remembers the reply, and sends it: at once, or as soon as a backup has it too."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Protocol, TypeAlias

from modum.box.protocol.frames import Header
from modum.box.server.dispatch import Dispatch
from modum.box.server.sessions import Caller, Reply
from modum.box.sockets import Stream, send_frame

Send: TypeAlias = Callable[[Reply, int], None]
"""Sends a reply, as soon as the record of this number is safe."""


class Performer(Protocol):
    """Does what the requests of slots ask for."""

    def perform(self, caller: Caller, header: Header, payload: memoryview) -> tuple[Reply, int]:
        """Do what is asked for, and remember the reply.

        Args:
            caller: who asks.
            header: of the request.
            payload: of the request.

        Returns:
            The reply, and the number of the record that must be safe before it is sent.

        Raises:
            ProtocolError: the request breaks the wire format; the connection is to be closed.
            ConnectionAbortedError: nobody asks any more, and nothing was done.
        """

    def recall(self, caller: Caller, header: Header, payload: memoryview) -> tuple[Reply, int]:
        """Return what was answered to a request that has come again.

        Args:
            caller: who asks.
            header: of the request.
            payload: of the request.

        Returns:
            As `perform`.

        Raises:
            ProtocolError: it is older than what is remembered.
        """

    def settle(self, caller: Caller) -> None:
        """Wait until whoever stands in for the server knows of the slot, which the client may rely on then."""

    def sending(self, caller: Caller, connection: Stream) -> AbstractContextManager[Send]:
        """Return what sends replies over a connection; at its end all were sent, or the connection is over."""


class Direct:
    """Answers as soon as something is done.

    Args:
        dispatch: does it.
    """

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch

    def perform(self, caller: Caller, header: Header, payload: memoryview) -> tuple[Reply, int]:
        """Do what is asked for: see `Performer`."""
        reply = self._dispatch.answer(caller, header, payload)
        caller.slot.replies.remember(header.sequence, reply)
        return reply, 0

    def recall(self, caller: Caller, header: Header, payload: memoryview) -> tuple[Reply, int]:
        """Return what was answered: see `Performer`."""
        return caller.slot.replies.reply_to(header.sequence), 0

    def settle(self, caller: Caller) -> None:
        """Do nothing: nobody stands in for the server."""

    def sending(self, caller: Caller, connection: Stream) -> AbstractContextManager[Send]:
        """Send at once: see `Performer`."""
        return nullcontext(partial(_send, connection))


def _send(connection: Stream, reply: Reply, _: int) -> None:
    send_frame(connection, reply.header, reply.payload)
