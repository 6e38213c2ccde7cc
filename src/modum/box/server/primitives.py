"""What a memory server keeps besides numbers: counters, leases, work queues and small values, and those who wait.

Everything is guarded by one condition, which is also notified when a session ends. Nothing here knows about sockets.
"""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from modum.box.protocol.limits import MAX_VALUE, MAX_VALUES
from modum.errors import LeaseLostError, PoolFullError

_LEASE_POLL: Final = 0.05
"""Seconds between two looks at a lease: its expiry notifies nobody."""


class Asking(Protocol):
    """Who makes a request that may wait."""

    @property
    def holder(self) -> str:
        """Name of the session that gets what is handed out."""

    def check(self) -> None:
        """Check that somebody still asks: nothing is handed out to a session that has ended."""


@dataclass(slots=True)
class _Lease:
    grant: int
    session: str
    expires: float
    ttl: float


@dataclass(slots=True)
class _Queue:
    size: int
    fresh: int = 0  # the next item that was never taken
    returned: deque[int] = field(default_factory=deque)
    held: dict[int, str] = field(default_factory=dict)
    done: int = 0


class Primitives:
    """Counters, leases, queues and values of one server. Thread-safe.

    Args:
        clock: seconds of a monotonic clock.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.changed = threading.Condition()
        self.stopping = False
        self._clock = clock
        self._counters: dict[str, int] = {}
        self._leases: dict[str, _Lease] = {}
        self._grants = 0
        self._queues: dict[str, _Queue] = {}
        self._values: dict[str, bytes] = {}

    def wait_until(
        self, ready: Callable[[], bool], timeout: float, caller: Asking, *, poll: float | None = None
    ) -> bool:
        """Wait until `ready()` is true, and return whether it is.

        Args:
            ready: called with the condition held, after every change.
            timeout: seconds.
            caller: who waits.
            poll: seconds after which to look again though nothing has changed here.

        Returns:
            Whether it was true at the end.

        Raises:
            ConnectionAbortedError: nobody asks any more.
        """
        deadline = self._clock() + timeout
        with self.changed:
            while True:
                caller.check()
                if ready():
                    return True
                left = deadline - self._clock()
                if left <= 0 or self.stopping:
                    return False
                self.changed.wait(left if poll is None else min(poll, left))

    def stop(self) -> None:
        """End every wait, now and from now on."""
        with self.changed:
            self.stopping = True
            self.changed.notify_all()

    def wake(self) -> None:
        """Have every waiter look again."""
        with self.changed:
            self.changed.notify_all()

    def end_session(self, session: str) -> None:
        """Drop the leases of `session` and hand its unfinished work items out again, oldest first."""
        with self.changed:
            self._leases = {name: lease for name, lease in self._leases.items() if lease.session != session}
            for queue in self._queues.values():
                for item in sorted(item for item, holder in queue.held.items() if holder == session):
                    del queue.held[item]
                    queue.returned.append(item)
            self.changed.notify_all()

    def is_empty(self) -> bool:
        """Return whether nothing is kept here."""
        return not (self._counters or self._leases or self._queues or self._values)

    # ---- counters

    def counter_add(self, name: str, amount: int) -> int:
        """Add to a counter, and return its value before.

        Args:
            name: of the counter.
            amount: may be negative.

        Returns:
            The value before.

        Raises:
            ValueError: the sum does not fit in 64 bits; the counter is unchanged.
        """
        with self.changed:
            before = self._counters.get(name, 0)
            if not -(2**63) <= before + amount < 2**63:
                raise ValueError(f"counter {name!r} is {before}: adding {amount} would overflow 64 bits")
            self._counters[name] = before + amount
            self.changed.notify_all()
        return before

    def counter_wait(self, name: str, at_least: int, timeout: float, caller: Asking) -> int:
        """Return a counter's value once it is `at_least` that, or whatever it is after `timeout` seconds."""
        self.wait_until(lambda: self._counters.get(name, 0) >= at_least, timeout, caller)
        return self._counters.get(name, 0)

    # ---- leases

    def lease_acquire(self, name: str, ttl: float, timeout: float, caller: Asking) -> tuple[int, str]:
        """Take a lease as soon as it is free.

        Args:
            name: of the lease.
            ttl: seconds that it lasts unless it is renewed.
            timeout: seconds to wait.
            caller: whose session takes it.

        Returns:
            (number of the grant, the session), or (0, the session that holds it).
        """

        def free() -> bool:
            lease = self._leases.get(name)
            return lease is None or lease.expires <= self._clock()

        with self.changed:
            if self.wait_until(free, timeout, caller, poll=_LEASE_POLL):
                session = caller.holder
                self._grants += 1
                self._leases[name] = _Lease(self._grants, session, self._clock() + ttl, ttl)
                return self._grants, session
            return 0, self._leases[name].session if name in self._leases else ""

    def lease_renew(self, name: str, grant: int) -> None:
        """Give a lease its whole time again.

        Args:
            name: of the lease.
            grant: number that it was granted with.

        Raises:
            LeaseLostError: this grant does not hold any more.
        """
        with self.changed:
            lease = self._own(name, grant)
            lease.expires = self._clock() + lease.ttl

    def lease_release(self, name: str, grant: int) -> None:
        """Give a lease up.

        Args:
            name: of the lease.
            grant: number that it was granted with.

        Raises:
            LeaseLostError: this grant does not hold any more.
        """
        with self.changed:
            self._own(name, grant)
            del self._leases[name]
            self.changed.notify_all()

    def leases(self, prefix: str) -> list[tuple[str, str, float]]:
        """Return (name, session, seconds left) of every lease that is held and whose name starts with `prefix`."""
        now = self._clock()
        with self.changed:
            return sorted(
                (name, lease.session, lease.expires - now)
                for name, lease in self._leases.items()
                if name.startswith(prefix) and lease.expires > now
            )

    def _own(self, name: str, grant: int) -> _Lease:
        lease = self._leases.get(name)
        if lease is None or lease.grant != grant or lease.expires <= self._clock():
            raise LeaseLostError(f"lease {name!r} is not held any more: it expired, or was released")
        return lease

    # ---- work queues

    def queue_open(self, name: str, size: int) -> None:
        """Make a queue, or check that it has this size.

        Args:
            name: of the queue.
            size: number of items.

        Raises:
            ValueError: it is there with another size.
        """
        with self.changed:
            queue = self._queues.setdefault(name, _Queue(size))
            if queue.size != size:
                raise ValueError(f"work queue {name!r} has {queue.size} items, not {size}")

    def queue_take(self, name: str, timeout: float, caller: Asking) -> tuple[int, bool]:
        """Hand an item to a session.

        Args:
            name: of the queue.
            timeout: seconds to wait while others hold the last items.
            caller: whose session takes it.

        Returns:
            (item, False), or (-1, whether all items are done).

        Raises:
            ValueError: there is no such queue.
        """
        queue = self._queue(name)
        with self.changed:
            self.wait_until(
                lambda: bool(queue.returned) or queue.fresh < queue.size or queue.done == queue.size, timeout, caller
            )
            if queue.returned:
                item = queue.returned.popleft()
            elif queue.fresh < queue.size:
                item = queue.fresh
                queue.fresh += 1
            else:
                return -1, queue.done == queue.size
            queue.held[item] = caller.holder
            return item, False

    def queue_done(self, name: str, session: str, item: int) -> None:
        """Count an item as done.

        Args:
            name: of the queue.
            session: that took the item.
            item: its number.

        Raises:
            LeaseLostError: the session does not hold it: it was away too long, and the item went to another.
        """
        queue = self._queue(name)
        with self.changed:
            if queue.held.get(item) != session:
                raise LeaseLostError(f"item {item} of work queue {name!r} is not held by this session")
            del queue.held[item]
            queue.done += 1
            self.changed.notify_all()

    def queue_look(self, name: str) -> tuple[int, int, int]:
        """Return (size, items that somebody holds, items done)."""
        queue = self._queue(name)
        with self.changed:
            return queue.size, len(queue.held), queue.done

    def _queue(self, name: str) -> _Queue:
        try:
            return self._queues[name]
        except KeyError:
            raise ValueError(f"no work queue {name!r} on this server: open it first") from None

    # ---- small values

    def value_put(self, name: str, value: bytes, expected: bytes | None) -> bytes:
        """Set a value, or delete it if `value` is empty.

        Args:
            name: of the value.
            value: packed; empty for none.
            expected: change nothing unless this is what is there; None changes it in any case.

        Returns:
            What was there before if `expected` is given, else nothing.

        Raises:
            ValueError: the value is too large; what was there is unchanged.
            PoolFullError: there are too many values here.
        """
        if len(value) > MAX_VALUE:
            raise ValueError(
                f"value {name!r} has {len(value)} bytes, the limit is {MAX_VALUE}: larger things belong into a buffer"
            )
        with self.changed:
            before = self._values.get(name, b"")
            if expected is not None and before != expected:
                return before
            if not value:
                self._values.pop(name, None)
            elif not before and len(self._values) >= MAX_VALUES:
                raise PoolFullError(
                    f"value {name!r}: this server keeps {MAX_VALUES} values already. HINT: delete some, or add servers"
                )
            else:
                self._values[name] = value
            self.changed.notify_all()
        return b"" if expected is None else before

    def value_get(self, name: str, timeout: float, caller: Asking) -> bytes:
        """Return a packed value as soon as there is one, or nothing after `timeout` seconds."""
        with self.changed:
            self.wait_until(lambda: name in self._values, timeout, caller)
            return self._values.get(name, b"")
