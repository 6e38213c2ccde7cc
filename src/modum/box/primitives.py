"""What workers agree by: counters, leases, work queues and small values in the box."""

import operator
import time
from dataclasses import dataclass
from typing import Any

import msgspec

from modum.box.fanout import Fanout
from modum.box.protocol.messages import (
    CounterAdd,
    CounterWait,
    LeaseAcquire,
    LeaseRelease,
    LeaseRenew,
    QueueDone,
    QueueLook,
    QueueOpen,
    QueueTake,
    ValueGet,
    ValuePut,
    check_plain,
    decode,
    packed,
)
from modum.errors import DeadlineError, LeaseLostError, ModumError
from modum.waiting import Deadline


class Counter:
    """A shared 64-bit integer that starts at 0; made by `Box.counter`."""

    def __init__(self, servers: Fanout, name: str) -> None:
        self.name = name
        self._servers = servers

    @property
    def value(self) -> int:
        """The counter's value now."""
        return self.add(0)

    def add(self, amount: int) -> int:
        """Add to the counter, exactly once (fetch-and-add).

        Args:
            amount: a whole number.

        Returns:
            The value before.

        Raises:
            TypeError: `amount` is no whole number.
            ValueError: the sum does not fit in 64 bits.
        """
        return self._servers.call_home(self.name, CounterAdd(self.name, operator.index(amount)), int)

    def wait(self, at_least: int, timeout: float | None = None) -> int:
        """Wait until the counter is high enough.

        Args:
            at_least: the value to wait for.
            timeout: seconds to wait; None takes the box's.

        Returns:
            The value, which is at least `at_least`.

        Raises:
            TypeError: `at_least` is no whole number.
            DeadlineError: it was not reached in time; the message has the value.
        """
        at_least = operator.index(at_least)
        return self._servers.call_until(
            self.name,
            lambda wait: CounterWait(self.name, at_least, wait),
            int,
            lambda value: value >= at_least,
            timeout,
            lambda value: f"wait for counter {self.name!r}: it is {value}, not {at_least}",
        )


@dataclass(frozen=True, slots=True)
class LeaseInfo:
    """A lease that somebody holds.

    Attributes:
        name: within the client's namespace.
        holder: the session that holds it (`Box.session`).
        seconds: how long it still lasts unless it is renewed.
    """

    name: str
    holder: str
    seconds: float


class Lease:
    """A named lock for a time; made by `Box.lock`, released by `with`.

    It is lost when `ttl` seconds pass without `renew`, or when its holder's session ends (the process died, or was cut
    off for longer than the server's grace).
    """

    def __init__(self, servers: Fanout, name: str, grant: int, ttl: float, asked: float) -> None:
        self.name = name
        self._servers = servers
        self._grant = grant
        self._ttl = ttl
        self._end = asked + ttl

    @classmethod
    def acquire(cls, servers: Fanout, name: str, ttl: float, timeout: float | None) -> "Lease":
        """Take the lease as soon as it is free: see `Box.lock`."""
        deadline = Deadline(servers.timeout if timeout is None else timeout)
        asked = 0.0

        def ask(wait: float) -> LeaseAcquire:
            nonlocal asked
            asked = time.monotonic()
            return LeaseAcquire(name, ttl, wait)

        while True:
            grant, _ = servers.call_until(
                name,
                ask,
                tuple[int, str],
                lambda answer: answer[0] > 0,
                deadline.left,
                lambda answer: f"lease {name!r} is still held by session {answer[1]}",
            )
            lease = cls(servers, name, grant, ttl, asked)
            try:
                while not lease.left:
                    lease.renew()  # the answer came so late that somebody else may have it by now
                return lease
            except LeaseLostError:
                if deadline.passed:
                    raise DeadlineError(f"lease {name!r} was lost before the answer came that it is held") from None

    @property
    def left(self) -> float:
        """Seconds for which the lease lasts for certain, if the session does: counted from when it was asked for.

        None are left once it was released, or is known to be lost.
        """
        return max(0.0, self._end - time.monotonic())

    def renew(self) -> None:
        """Have the lease last for its whole time again.

        Raises:
            LeaseLostError: it is not held any more.
        """
        asked = time.monotonic()
        try:
            self._servers.call_home(self.name, LeaseRenew(self.name, self._grant), type(None))
        except LeaseLostError:
            self._end = asked
            raise
        self._end = asked + self._ttl

    def release(self) -> None:
        """Give the lease up.

        Raises:
            LeaseLostError: it was not held any more.
        """
        self._end = time.monotonic()
        self._servers.call_home(self.name, LeaseRelease(self.name, self._grant), type(None))

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        try:
            self.release()
        except ModumError:
            if error is None:
                raise


@dataclass(frozen=True, slots=True)
class QueueStatistics:
    """How far a work queue is.

    Attributes:
        size: number of items.
        taken: items that somebody holds.
        done: items that are done.
    """

    size: int
    taken: int
    done: int


class WorkQueue:
    """Numbered items of work, each handed to one session at a time; made by `Box.queue`.

    An item that its taker gives back, or does not finish because its session ended, is handed out again, before fresh
    ones.
    """

    def __init__(self, servers: Fanout, name: str, size: int) -> None:
        self.name = name
        self.size = size
        self._servers = servers
        servers.call_home(name, QueueOpen(name, size), type(None))

    def take(self, timeout: float | None = None) -> int | None:
        """Take the next item, waiting while others hold the last ones.

        Args:
            timeout: seconds to wait; None takes the box's.

        Returns:
            The item, or None once all are done.

        Raises:
            DeadlineError: others still hold the last items.
        """
        item, _ = self._servers.call_until(
            self.name,
            lambda wait: QueueTake(self.name, wait),
            tuple[int, bool],
            lambda answer: answer[0] >= 0 or answer[1],
            timeout,
            lambda answer: f"take from work queue {self.name!r}: others still hold its last items",
        )
        return item if item >= 0 else None

    def done(self, item: int) -> None:
        """Count an item as done.

        Args:
            item: one that this session has taken.

        Raises:
            TypeError: `item` is no whole number.
            LeaseLostError: the item is not this session's: it was away too long, and another has it.
        """
        self._servers.call_home(self.name, QueueDone(self.name, operator.index(item)), type(None))

    def give_back(self, item: int) -> None:
        """Have an item handed out again, before fresh ones.

        Args:
            item: one that this session has taken.

        Raises:
            TypeError: `item` is no whole number.
            LeaseLostError: the item is not this session's: it was away too long, and another has it.
        """
        self._servers.call_home(self.name, QueueDone(self.name, operator.index(item), unfinished=True), type(None))

    def statistics(self) -> QueueStatistics:
        """Return how far the queue is."""
        return QueueStatistics(*self._servers.call_home(self.name, QueueLook(self.name), tuple[int, int, int]))


_encoder = msgspec.msgpack.Encoder(order="deterministic")


class Value:
    """A small shared value that anybody may set, of the types that msgpack has; made by `Box.value`.

    It may be None (nothing is there), a bool, an int of 64 bits, a float, a str, bytes, a list of such, or a dict
    whose keys are str; a tuple comes back as a list. Two values are equal if they have the same types and contents:
    1, 1.0 and True are three values, the order of a dict's keys does not count. Every change happens exactly once,
    whatever connection was lost meanwhile. It is kept until it is deleted: it does not end with the session of whoever
    set it.

    Every method raises
        ConnectionLostError, DeadlineError: the value's server is gone, or does not answer; a change that was under way
            may have been made, once.
    """

    def __init__(self, servers: Fanout, name: str) -> None:
        self.name = name
        self._servers = servers

    def get(self) -> Any:
        """Return the value, or None if there is none."""
        return _unpacked(self._servers.call_home(self.name, ValueGet(self.name), bytes))

    def wait(self, timeout: float | None = None) -> Any:
        """Wait until somebody has set the value.

        Args:
            timeout: seconds to wait; None takes the box's.

        Returns:
            The value.

        Raises:
            DeadlineError: nobody has set it.
        """
        return _unpacked(
            self._servers.call_until(
                self.name,
                lambda wait: ValueGet(self.name, wait),
                bytes,
                bool,
                timeout,
                lambda _: f"wait for value {self.name!r}: nobody has set it",
            )
        )

    def set(self, value: Any) -> None:
        """Set the value, whatever is there.

        Args:
            value: anything but None.

        Raises:
            TypeError: msgpack has no such type.
            ValueError: it is None, or has more than `MAX_VALUE` bytes when packed; nothing was changed.
            PoolFullError: the server keeps too many values already.
        """
        if value is None:
            raise ValueError(f"value {self.name!r} cannot be set to None, which says that there is none: use delete()")
        self._put(value)

    def compare_and_set(self, expected: Any, value: Any) -> bool:
        """Set the value if it is what is expected, in one step.

        Args:
            expected: what must be there now; None: nothing.
            value: what is there then; None: nothing.

        Returns:
            Whether it was set.

        Raises:
            TypeError, ValueError, PoolFullError: as `set` does.
        """
        condition = _packed(expected)
        return self._put(value, condition) == condition

    def set_default(self, value: Any) -> Any:
        """Set the value unless there is one, in one step.

        Args:
            value: anything but None.

        Returns:
            What is there now.

        Raises:
            TypeError, ValueError, PoolFullError: as `set` does.
        """
        if value is None:
            raise ValueError(f"value {self.name!r} cannot be set to None, which says that there is none")
        return _unpacked(self._put(value, b"") or _packed(value))

    def delete(self) -> None:
        """Delete the value; does nothing if there is none."""
        self._put(None)

    def _put(self, value: Any, expected: bytes | None = None) -> bytes:
        return self._servers.call_home(self.name, ValuePut(self.name, _packed(value), expected), bytes)


def _packed(value: Any) -> bytes:
    """Return `value` as msgpack, with the keys of dicts in order; nothing for None."""
    if value is None:
        return b""
    check_plain(value)
    return packed(_encoder, value)


def _unpacked(data: bytes) -> Any:
    return decode(data, Any) if data else None
