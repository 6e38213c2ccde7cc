"""What a memory server keeps besides numbers: counters, leases, work queues and small values, and those who wait.

Everything is guarded by one condition, which is also notified when a session ends. Nothing here knows about sockets.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from modum.box.protocol.limits import MAX_VALUE, MAX_VALUES, NAME_BYTES
from modum.box.protocol.replication import HeldQueueState, LeaseState, PrimitivesState
from modum.box.server.budget import Budget
from modum.box.server.pages import first_page
from modum.box.server.waiting import Asking, WaitingRoom
from modum.box.snapshots.manifest import Notes, QueueState
from modum.errors import LeaseLostError, PoolFullError


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
        room: where requests wait.
        budget: in which names and values are counted.
    """

    def __init__(self, clock: Callable[[], float], room: WaitingRoom, budget: Budget) -> None:
        self._clock = clock
        self._room = room
        self._budget = budget
        self._counters: dict[str, int] = {}
        self._leases: dict[str, _Lease] = {}
        self._grants = 0
        self._queues: dict[str, _Queue] = {}
        self._values: dict[str, bytes] = {}

    def end_session(self, session: str) -> None:
        """Drop the leases of `session` and hand its unfinished work items out again, oldest first."""
        with self._room.mutex:
            for name in [name for name, lease in self._leases.items() if lease.session == session]:
                self._drop_lease(name)
            for queue in self._queues.values():
                for item in sorted(item for item, holder in queue.held.items() if holder == session):
                    del queue.held[item]
                    queue.returned.append(item)
            self._room.wake_all()

    def _note(self, kind: str, name: str, count: int = 1) -> None:
        """Count a name that is kept from now on, or with -1 not any more."""
        self._budget.take(f"{kind} {name!r}", name=name, notes=count * (NAME_BYTES + len(name.encode())))

    def _drop_lease(self, name: str) -> None:
        del self._leases[name]
        self._note("lease", name, -1)

    def is_empty(self) -> bool:
        """Return whether nothing is kept here."""
        return not (self._counters or self._leases or self._queues or self._values)

    # ---- snapshots

    def notes(self) -> Notes:
        """Return what outlives a client: all but leases, with the work items that somebody holds as handed back."""
        with self._room.mutex:
            queues = {
                name: QueueState(queue.size, queue.fresh, [*queue.returned, *sorted(queue.held)], queue.done)
                for name, queue in self._queues.items()
            }
            return Notes(dict(self._counters), queues, dict(self._values))

    def restore(self, notes: Notes) -> None:
        """Take over what is in a snapshot, in place of everything that is here.

        Args:
            notes: of the snapshot.

        Raises:
            PoolFullError: the pool has not enough room left.
        """
        with self._room.mutex:
            for kind, names in (("counter", notes.counters), ("work queue", notes.queues)):
                for name in names:
                    self._note(kind, name)
            for name, value in notes.values.items():
                self._budget.take(f"value {name!r}", name=name, notes=len(value))
            self._counters = dict(notes.counters)
            self._values = dict(notes.values)
            self._queues = {
                name: _Queue(queue.size, queue.fresh, deque(queue.returned), done=queue.done)
                for name, queue in notes.queues.items()
            }

    # ---- servers that stand in for each other

    def state(self) -> PrimitivesState:
        """Return everything, leases and the holders of work items too."""
        with self._room.mutex:
            return PrimitivesState(
                dict(self._counters),
                dict(self._values),
                {
                    name: LeaseState(each.grant, each.session, each.expires, each.ttl)
                    for name, each in self._leases.items()
                },
                self._grants,
                {
                    name: HeldQueueState(each.size, each.fresh, list(each.returned), dict(each.held), each.done)
                    for name, each in self._queues.items()
                },
            )

    def take_over(self, state: PrimitivesState) -> None:
        """Have what another server has, where nothing is here.

        Args:
            state: of the other server.

        Raises:
            PoolFullError: the pool has not enough room left.
        """
        with self._room.mutex:
            for kind, names in (("counter", state.counters), ("work queue", state.queues), ("lease", state.leases)):
                for name in names:
                    self._note(kind, name)
            for name, value in state.values.items():
                self._budget.take(f"value {name!r}", notes=len(value))
            self._counters, self._values, self._grants = dict(state.counters), dict(state.values), state.grants
            self._leases = {
                name: _Lease(each.grant, each.session, each.expires, each.ttl) for name, each in state.leases.items()
            }
            self._queues = {
                name: _Queue(each.size, each.fresh, deque(each.returned), dict(each.held), each.done)
                for name, each in state.queues.items()
            }

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
        with self._room.mutex:
            before = self._counters.get(name, 0)
            if not amount:
                return before  # whoever only reads leaves nothing here
            if not -(2**63) <= before + amount < 2**63:
                raise ValueError(f"counter {name!r} is {before}: adding {amount} would overflow 64 bits")
            if name not in self._counters:
                self._note("counter", name)
            self._counters[name] = before + amount
            self._room.wake(("counter", name))
        return before

    def counter_wait(self, name: str, at_least: int, timeout: float, caller: Asking) -> int:
        """Return a counter's value once it is `at_least` that, or whatever it is after `timeout` seconds."""
        self._room.wait_until(("counter", name), lambda: self._counters.get(name, 0) >= at_least, timeout, caller)
        return self._counters.get(name, 0)

    # ---- leases

    def lease_wait(self, name: str, timeout: float, caller: Asking) -> bool:
        """Wait until a lease is free, and return whether it is."""

        def left() -> float:
            lease = self._leases.get(name)
            return 0.0 if lease is None else lease.expires - self._clock()

        return self._room.wait_until(("lease", name), lambda: left() <= 0, timeout, caller, again=left)

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
        with self._room.mutex:
            if self.lease_wait(name, timeout, caller):
                session = caller.holder
                if name not in self._leases:
                    self._note("lease", name)
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
        with self._room.mutex:
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
        with self._room.mutex:
            self._own(name, grant)
            self._drop_lease(name)
            self._room.wake(("lease", name))

    def leases(self, prefix: str, after: str) -> list[tuple[str, str, float]]:
        """Return a page of the leases that are held and whose names start with `prefix`, from behind `after` on.

        Args:
            prefix: of the names.
            after: the last name of the page before, or an empty one.

        Returns:
            (name, session, seconds left) of each, by name; nothing behind the last one.
        """
        now = self._clock()
        with self._room.mutex:
            held = sorted(
                (name, lease.session, lease.expires - now)
                for name, lease in self._leases.items()
                if name.startswith(prefix) and name > after and lease.expires > now
            )
        return list(first_page(held, lambda each: len(each[0])))

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
        with self._room.mutex:
            if name not in self._queues:
                self._note("work queue", name)
            queue = self._queues.setdefault(name, _Queue(size))
            if queue.size != size:
                raise ValueError(f"work queue {name!r} has {queue.size} items, not {size}")

    def queue_wait(self, name: str, timeout: float, caller: Asking) -> bool:
        """Wait until a queue has an item to hand out, or all are done, and return whether it is so."""
        queue = self._queue(name)
        return self._room.wait_until(
            ("queue", name),
            lambda: bool(queue.returned) or queue.fresh < queue.size or queue.done == queue.size,
            timeout,
            caller,
        )

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
        with self._room.mutex:
            self.queue_wait(name, timeout, caller)
            if queue.returned:
                item = queue.returned.popleft()
            elif queue.fresh < queue.size:
                item = queue.fresh
                queue.fresh += 1
            else:
                return -1, queue.done == queue.size
            queue.held[item] = caller.holder
            return item, False

    def queue_done(self, name: str, session: str, item: int, *, unfinished: bool = False) -> None:
        """Count an item as done, or hand it out again.

        Args:
            name: of the queue.
            session: that took the item.
            item: its number.
            unfinished: whether it is handed out again.

        Raises:
            LeaseLostError: the session does not hold it: it was away too long, and the item went to another.
        """
        queue = self._queue(name)
        with self._room.mutex:
            if queue.held.get(item) != session:
                raise LeaseLostError(f"item {item} of work queue {name!r} is not held by this session")
            del queue.held[item]
            if unfinished:
                queue.returned.append(item)
            else:
                queue.done += 1
            if unfinished or queue.done == queue.size:
                self._room.wake(("queue", name))

    def queue_look(self, name: str) -> tuple[int, int, int]:
        """Return (size, items that somebody holds, items done)."""
        queue = self._queue(name)
        with self._room.mutex:
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
        with self._room.mutex:
            before = self._values.get(name, b"")
            if expected is not None and before != expected:
                return before
            if value and not before and len(self._values) >= MAX_VALUES:
                raise PoolFullError(
                    f"value {name!r}: this server keeps {MAX_VALUES} values already. HINT: delete some, or add servers"
                )
            self._budget.take(f"value {name!r}", name=name, notes=len(value) - len(before))
            if value:
                self._values[name] = value
                self._room.wake(("value", name))
            else:
                self._values.pop(name, None)
        return b"" if expected is None else before

    def value_get(self, name: str, timeout: float, caller: Asking) -> bytes:
        """Return a packed value as soon as there is one, or nothing after `timeout` seconds."""
        with self._room.mutex:
            self._room.wait_until(("value", name), lambda: name in self._values, timeout, caller)
            return self._values.get(name, b"")
