"""The two ends of a channel with a thread each, so that numbers move while a stage computes."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modum.pipeline.channel import Array, Message, Reader, Writer

__all__ = ["Inbox", "Outbox"]


class Outbox:
    """Sends in the background, in order. At most ``bound`` messages wait here; then `send` waits too."""

    def __init__(self, writer: Writer, bound: int) -> None:
        self._writer = writer
        self._bound = bound
        self._thread = ThreadPoolExecutor(1, "modum-send")
        self._pending: deque[Future[None]] = deque()

    def send(self, note: dict[str, Any], arrays: Sequence[Array] = ()) -> None:
        """Hand a message over; the arrays must not change any more. Raises what an earlier one raised."""
        while self._pending and (self._pending[0].done() or len(self._pending) >= self._bound):
            self._pending.popleft().result()
        self._pending.append(self._thread.submit(self._writer.send, note, arrays))

    def drain(self) -> None:
        """Wait until the other side has everything."""
        while self._pending:
            self._pending.popleft().result()
        self._writer.drain()

    @property
    def nbytes(self) -> int:
        """Bytes sent so far."""
        return self._writer.nbytes

    def close(self) -> None:
        """End the thread and delete the ring."""
        self._thread.shutdown(cancel_futures=True)
        self._writer.close()


class Inbox:
    """Receives ahead in the background: `ask` for what will come, then `receive` it."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._thread = ThreadPoolExecutor(1, "modum-receive")
        self._asked: deque[tuple[Future[Message], Future[None]]] = deque()
        self._acknowledged: Future[None] | None = None

    def ask(self) -> None:
        """One more message will come: fetch it as soon as it is there."""
        self._asked.append((self._thread.submit(self._reader.take), self._thread.submit(self._reader.acknowledge)))

    def receive(self) -> Message:
        """The next message that was asked for. Raises what fetching it raised."""
        if self._acknowledged is not None:
            self._acknowledged.result()
        message, self._acknowledged = self._asked.popleft()
        return message.result()

    def close(self) -> None:
        """End the thread and let go of the ring."""
        self._thread.shutdown(cancel_futures=True)
        self._reader.close()
