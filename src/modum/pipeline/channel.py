"""Channels: messages of arrays from one worker to another, through a ring buffer in the box.

A channel is one int64 buffer of the box, cut into slots, and two counters: messages written and messages read. The
writer waits until a slot is free, the reader until there is a message; both are woken by the counter at once, over any
transport. A slot holds, in words of 8 bytes, all little-endian:

    words of the whole message | bytes of the header | header (msgpack), padded | array, padded | array, padded ...

A message larger than a slot waits until all messages before it have been read, and makes a new ring that it fits in.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
import numpy as np

from modum.errors import BufferNotFoundError, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from modum.box import Box, Buffer, Counter

__all__ = ["Inbox", "Message", "Outbox", "Reader", "Wait", "Writer"]

_WORD: Final = 8
_PREFIX: Final = 2
"""Words before the header."""
_ROOM: Final = 1.25
"""How much larger a ring is than the message that it is made for: headers and last batches vary a little."""
_MAX_ARRAYS: Final = 4096

Array = np.ndarray[Any, Any]


class Message(msgspec.Struct, frozen=True):
    """A message of a channel: a note of plain values, and arrays of any shape and any dtype that NumPy can name."""

    note: dict[str, Any]
    arrays: list[Any]


class Wait(Protocol):
    """A function that waits until a counter is at least a number, and returns its value, or raises."""

    def __call__(self, counter: Counter, at_least: int) -> int: ...


class _Header(msgspec.Struct, array_like=True, frozen=True):
    note: dict[str, Any]
    arrays: list[tuple[str, list[int]]]


def _plain_wait(counter: Counter, at_least: int) -> int:
    return counter.wait(at_least)


class _End:
    """State of either end: the ring's name, its two counters, and the buffer while there is one."""

    def __init__(self, box: Box, name: str, wait: Wait | None = None) -> None:
        self.name = name
        self._box = box
        self._wait = wait or _plain_wait
        self._written = box.counter(f"{name}/written")
        self._read = box.counter(f"{name}/read")
        self._buffer: Buffer | None = None
        self._count = 0

    @property
    def count(self) -> int:
        """Messages that have passed this end."""
        return self._count

    def _let_go(self) -> None:
        if self._buffer is not None:
            self._buffer.close()
            self._buffer = None


class Writer(_End):
    """The sending end. Each name has one, used by one thread at a time.

    Args:
        box: where the ring is.
        name: the ring's.
        slots: messages that may be under way before `send` waits; at least 1.
        wait: how to wait for a counter; default: up to the box's timeout.
    """

    def __init__(self, box: Box, name: str, *, slots: int, wait: Wait | None = None) -> None:
        if slots < 1:
            raise ValueError(f"slots ({slots}) must be at least 1")
        super().__init__(box, name, wait)
        self._slots = slots
        self._words = 0
        """Words of a slot."""
        self._staging = np.empty(0, np.int64)
        self._known_read = 0
        self.nbytes = 0
        """Bytes sent so far."""

    def send(self, note: dict[str, Any], arrays: Sequence[Array]) -> None:
        """Copy a message into the ring; the arrays may be changed when this returns.

        Args:
            note: plain values, of types that msgpack supports.
            arrays: arrays of any shape; NumPy must have a name for their dtypes.

        Raises:
            PoolFullError: the servers have no room for the ring.
            ValueError: an array's dtype has no name in NumPy (objects).
            ModumError: waiting for a slot failed.
        """
        message = self._pack(note, arrays)
        if message.size > self._words:
            self.drain()
            self._make_ring(int(message.size * _ROOM))
        else:
            self._wait_for_reader(self._count - self._slots + 1)
        assert self._buffer is not None
        self._buffer.write(message, offset=self._count % self._slots * self._words)
        self._count += 1
        self._written.add(1)
        self.nbytes += message.nbytes

    def drain(self) -> None:
        """Wait until all messages sent have been read."""
        self._wait_for_reader(self._count)

    def close(self) -> None:
        """Delete the ring with all unread messages. Closing twice does nothing."""
        if self._buffer is not None:
            self._let_go()
            try:
                self._box.delete(self.name)
            except BufferNotFoundError:
                pass  # another client has deleted it

    def _wait_for_reader(self, messages: int) -> None:
        if self._known_read < messages:  # asks the server only if needed
            self._known_read = self._wait(self._read, messages)

    def _make_ring(self, words: int) -> None:
        self.close()
        self._buffer = self._box.create(self.name, (self._slots, words), "int64", meta={"channel": self._slots})
        self._words = words

    def _pack(self, note: dict[str, Any], arrays: Sequence[Array]) -> NDArray[np.int64]:
        if len(arrays) > _MAX_ARRAYS:
            raise ValueError(f"a message has at most {_MAX_ARRAYS} arrays, not {len(arrays)}")
        for array in arrays:
            if array.dtype.hasobject:
                raise ValueError(f"an array of Python objects cannot be sent (dtype {array.dtype})")
        header = msgspec.msgpack.encode(_Header(note, [(array.dtype.name, list(array.shape)) for array in arrays]))
        words = _PREFIX + _words(len(header)) + sum(_words(array.nbytes) for array in arrays)
        if words > self._staging.size:
            self._staging = np.empty(int(words * _ROOM), np.int64)
        self._staging[:_PREFIX] = words, len(header)
        data = self._staging.view(np.uint8)
        start = _PREFIX * _WORD
        data[start : start + len(header)] = np.frombuffer(header, np.uint8)
        start += _words(len(header)) * _WORD
        for array in arrays:
            if array.nbytes:
                place = data[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
                np.copyto(place, array)
            start += _words(array.nbytes) * _WORD
        return self._staging[:words]


class Reader(_End):
    """The receiving end. Each name has one, used by one thread at a time.

    Args:
        box: where the ring is.
        name: the ring's.
        wait: how to wait for a counter; default: up to the box's timeout.
    """

    def __init__(self, box: Box, name: str, *, wait: Wait | None = None) -> None:
        super().__init__(box, name, wait)
        self._expected = _PREFIX
        self._acknowledged = 0
        self.nbytes = 0
        """Bytes received so far."""

    def receive(self) -> Message:
        """Receive the next message, in the order of sending.

        Returns:
            The message; its arrays belong to the caller.

        Raises:
            ProtocolError: the ring holds something other than a message.
            ModumError: waiting for a message failed.
        """
        message = self.take()
        self.acknowledge()
        return message

    def take(self) -> Message:
        """Receive a message without freeing its slot: `acknowledge` does that later."""
        self._wait(self._written, self._count + 1)
        words = self._fetch()
        self._count += 1
        self._expected = words.size
        self.nbytes += words.nbytes
        return self._unpack(words)

    def acknowledge(self) -> None:
        """Free the slots of all messages taken."""
        if self._acknowledged < self._count:
            self._read.add(self._count - self._acknowledged)
            self._acknowledged = self._count

    def close(self) -> None:
        """Close the ring; the writer deletes it."""
        self._let_go()

    def _fetch(self) -> NDArray[np.int64]:
        """Return the message's words: read as many as the previous message had, then the rest, if any."""
        while True:
            if self._buffer is None:
                self._buffer = self._box.open(self.name)
            slots, slot = self._buffer.shape
            start = self._count % slots * slot
            try:
                head = self._buffer.read(offset=start, count=min(self._expected, slot))
                size = int(head[0])
                if not _PREFIX <= size <= slot:
                    raise ProtocolError(f"channel {self.name!r}: a message of {size} words in a slot of {slot}")
                if size <= head.size:
                    return head[:size]
                words = np.empty(size, np.int64)
                words[: head.size] = head
                self._buffer.read(words[head.size :], offset=start + head.size)
                return words
            except BufferNotFoundError:
                self._let_go()  # a larger ring took its place

    def _unpack(self, words: NDArray[np.int64]) -> Message:
        data = words.view(np.uint8)
        start = _PREFIX * _WORD
        length = int(words[1])
        try:
            header = msgspec.msgpack.decode(data[start : start + length].tobytes(), type=_Header)
            start += _words(length) * _WORD
            arrays: list[Array] = []
            for name, shape in header.arrays:
                dtype = _dtype(name)
                nbytes = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
                arrays.append(data[start : start + nbytes].view(dtype).reshape(shape))
                start += _words(nbytes) * _WORD
        except (msgspec.MsgspecError, ValueError, TypeError) as error:
            raise ProtocolError(f"channel {self.name!r}: message {self._count - 1} cannot be read: {error}") from error
        return Message(header.note, arrays)


class Outbox:
    """Sends in the background, in order. At most `bound` messages wait here; then `send` waits too.

    Args:
        writer: the writer; closed with this object.
        bound: messages that may wait.
    """

    def __init__(self, writer: Writer, bound: int) -> None:
        self._writer = writer
        self._bound = bound
        self._thread = ThreadPoolExecutor(1, "modum-send")
        self._pending: deque[Future[None]] = deque()

    def send(self, note: dict[str, Any], arrays: Sequence[Array] = ()) -> None:
        """Queue a message; the arrays must not change any more.

        Args:
            note: as in `Writer.send`.
            arrays: as in `Writer.send`.

        Raises:
            ModumError: sending an earlier message failed.
        """
        while self._pending and (self._pending[0].done() or len(self._pending) >= self._bound):
            self._pending.popleft().result()
        self._pending.append(self._thread.submit(self._writer.send, note, arrays))

    def drain(self) -> None:
        """Wait until the other side has received all messages."""
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
    """Receives ahead in the background: `ask` for a message, then `receive` it."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._thread = ThreadPoolExecutor(1, "modum-receive")
        self._asked: deque[tuple[Future[Message], Future[None]]] = deque()
        self._acknowledged: Future[None] | None = None

    def ask(self) -> None:
        """Announce that another message will come; it is fetched as soon as it is there."""
        self._asked.append((self._thread.submit(self._reader.take), self._thread.submit(self._reader.acknowledge)))

    def receive(self) -> Message:
        """Return the next message that was asked for.

        Returns:
            The message; its arrays belong to the caller.

        Raises:
            ModumError: fetching it failed.
        """
        if self._acknowledged is not None:
            self._acknowledged.result()
        message, self._acknowledged = self._asked.popleft()
        return message.result()

    def close(self) -> None:
        """End the thread and close the ring."""
        self._thread.shutdown(cancel_futures=True)
        self._reader.close()


def _words(nbytes: int) -> int:
    return -(-nbytes // _WORD)


def _dtype(name: str) -> np.dtype[Any]:
    """Return NumPy's dtype of this name; ml_dtypes has those that NumPy lacks (bfloat16)."""
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes  # a sender of such an array has it

        extended: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return extended
