"""What the clients of a simulated world do, and what they note of it."""

from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np

from modum.box import Box
from modum.box.buffer import Buffer
from modum.box.compression import CompressionName
from modum.errors import (
    BufferExistsError,
    BufferNotFoundError,
    ConnectionLostError,
    DeadlineError,
    LeaseLostError,
    MismatchError,
    ModumError,
)
from tests.simulation.clockwork import Clockwork
from tests.simulation.history import BrokenPromiseError, History, Holding

NUMBERS = 96
"""int64 numbers of a buffer: 768 bytes, which are 12 chunks on all servers."""
TIMEOUTS = (1.5, 8.0)
"""Seconds after which the clients of a world give their calls up: before an outage may be over, and after it."""
TTL = 1.5
"""Seconds that leases last."""
NAMES = ("apple", "pear")
"""Buffers that come and go."""
WAITING = ("lock", "take")
"""What clients do that may take longer than they wait, though all is well."""
ON_ALL_SERVERS = ("add", "read")
"""What clients do that needs every server."""
WIRES: tuple[CompressionName, ...] = ("none", "bfloat16", "int8")
"""How the exchanges of clients travel, by their numbers."""
ITEMS = 6
"""Items of a work queue."""

Doubt = (ConnectionLostError, DeadlineError)
"""What says that an operation may have been done, or not."""


class Client:
    """One client: a process that joins, does things, and joins again after it was cut off.

    Args:
        clock: of the world.
        history: what is noted.
        number: of the client.
        addresses: of the servers.
        transport: by which it reaches them.
        token: of the job.
        steps: how many things it does.
        kinds: names of the things it may do.
        seed: of its choices.
        timeout: seconds after which its calls give up.
        harmless: whether nothing in the world could excuse that it is not served.
    """

    def __init__(
        self,
        clock: Clockwork,
        history: History,
        number: int,
        addresses: list[str],
        transport: str,
        token: str,
        steps: int,
        kinds: list[str],
        seed: int,
        timeout: float,
        harmless: bool,
    ) -> None:
        self.clock = clock
        self.history = history
        self.number = number
        self.random = Random(seed)  # noqa: S311 - of a game
        self.finished = False
        self._timeout = timeout
        self._harmless = harmless
        self._addresses = addresses
        self._transport = transport
        self._token = token
        self._steps = steps
        self._kinds = kinds
        self._buffers: dict[str, Buffer] = {}
        self._x = np.full(8, 64.0 * (number + 1), np.float32)
        self.box: Box

    def run(self) -> None:
        """Do everything; the work of a task."""
        try:
            self._connect()
            for _ in range(self._steps):
                kind = self.random.choice(self._kinds)
                lost = self.history.dead
                try:
                    getattr(self, f"do_{kind}")()
                    if lost and kind in ON_ALL_SERVERS:
                        raise BrokenPromiseError(f"{kind} of client {self.number} was acknowledged by a dead server")
                    self.history.acknowledged += 1
                    self.history.kinds[kind] += 1
                except Doubt as error:
                    self.history.refused += 1
                    if self._harmless and kind not in WAITING:
                        raise BrokenPromiseError(f"client {self.number} was not served: {error}") from error
                    if isinstance(error, ConnectionLostError):
                        self._reconnect()
                except (BufferNotFoundError, LeaseLostError):
                    self.history.refused += 1
                if self.random.random() < 0.3:
                    self.clock.sleep(self.random.expovariate(20))
                if self.random.random() < 0.03:
                    self._reconnect()
            self.box.close()
        except (*Doubt, MismatchError):
            pass  # cut off for too long: a client may give up
        self.finished = True

    def _connect(self) -> None:
        for left in reversed(range(4)):
            try:
                self.box = Box.connect(
                    self._addresses, token=self._token, transport=self._transport, timeout=self._timeout, threads=1
                )
                return
            except Doubt as error:
                if self._harmless:
                    raise BrokenPromiseError(f"client {self.number} was not let in: {error}") from error
                if not left:
                    raise

    def _reconnect(self) -> None:
        self.box.close()
        self._buffers.clear()
        if (register := self.history.registers.get(f"own {self.number}")) is not None:
            register.leave_box()
        self._connect()

    def _buffer(self, name: str, size: int = NUMBERS, dtype: str = "int64") -> Buffer:
        buffer = self._buffers.get(name)
        if buffer is None:
            buffer = self._buffers[name] = self.box.open_or_create(name, size, dtype)
        return buffer

    # ---- sums

    def do_count(self) -> None:
        """Add to a counter."""
        total = self.history.sum("counter")
        counter = self.box.counter("counter")
        before = total.acknowledged
        if (amount := total.next()) is None:
            return
        seen = counter.add(amount)
        total.check(seen, before, "value before an addition")
        if seen & amount:
            raise BrokenPromiseError(f"value before the addition of {amount:#x} has it")
        total.acknowledged |= amount

    def do_add(self) -> None:
        """Add to a buffer."""
        total = self.history.sum("sum")
        buffer = self._buffer("sum")
        if (amount := total.next()) is None:
            self.do_read()
            return
        buffer.add(np.full(NUMBERS, amount, np.int64))
        total.acknowledged |= amount

    def do_read(self) -> None:
        """Read the sum."""
        total = self.history.sum("sum")
        buffer = self._buffer("sum")
        before = total.acknowledged
        for seen in np.unique(buffer.read()):
            total.check(int(seen), before, "read")

    # ---- registers

    def do_write(self) -> None:
        """Write to this client's own buffer."""
        register = self.history.register(f"own {self.number}")
        buffer = self._buffer(register.name)
        register.issued += 1
        value = register.issued
        try:
            buffer.write(np.full(NUMBERS, value, np.int64))
        except Doubt:
            register.doubtful = True
            raise
        register.acknowledged = max(register.acknowledged, value)

    def do_watch(self) -> None:
        """Read somebody's own buffer."""
        name = self.random.choice(sorted(self.history.registers) or [""])
        if not name:
            return
        register = self.history.registers[name]
        buffer = self._buffers.get(name)
        if buffer is None:
            buffer = self._buffers[name] = self.box.open(name)
        before = register.acknowledged
        for seen in np.unique(buffer.read()):
            register.check(int(seen), before, "read")

    # ---- exchanges

    def do_exchange(self) -> None:
        """Exchange with shared weights: what they take, this client gives."""
        buffer = self._buffer("weights", 8, "float32")
        before = self._x.copy()
        me = f"weights {self.number}"
        self.history.doubtful.add(me)  # it may die of it
        try:
            buffer.exchange(self._x, 0.5, compression=WIRES[self.number % len(WIRES)])
        except Doubt:
            self._x = np.full(8, 64.0, np.float32)
            self.history.doubtful.add("weights")
            raise
        self.history.doubtful.discard(me)
        given = before - self._x
        if len(set(given.tolist())) > 1:
            raise BrokenPromiseError(f"one exchange of 8 equal numbers moved them by {given}")
        moved = self.history.moved
        moved["weights"] = moved.get("weights", 0.0) + float(given[0])

    # ---- names that come and go

    def do_create(self) -> None:
        """Make a buffer with a content of its own."""
        name = self.random.choice(NAMES)
        try:
            buffer = self.box.create(name, NUMBERS, "int64")
        except BufferExistsError:
            return
        try:
            buffer.add(np.full(NUMBERS, 1 << 2 * (self.number + 1), np.int64))
        except BufferNotFoundError:
            pass
        finally:
            buffer.close()

    def do_delete(self) -> None:
        """Delete one."""
        self.box.delete(self.random.choice(NAMES))

    def do_open(self) -> None:
        """Open one, and look whether its numbers belong together; add to all of them."""
        buffer = self.box.open(self.random.choice(NAMES))
        try:
            total = self.history.sum(f"opened by {self.number}")
            amount = total.next()
            if amount is not None:
                buffer.add(np.full(NUMBERS, amount << 1, np.int64))
        finally:
            buffer.close()

    # ---- what workers agree by

    def do_lock(self) -> None:
        """Hold a lease for a while: nobody else may meanwhile."""
        holding = self.history.leases.setdefault("lease", Holding("lease"))
        lease = self.box.lock("lease", ttl=TTL, timeout=self.random.choice([0.2, 5.0]))
        now = self.clock.time()
        holding.take(self.number, now, now + lease.left)
        self.clock.sleep(self.random.random() * TTL)
        holding.release(self.number)
        lease.release()

    def do_take(self) -> None:
        """Take an item of work, and finish it."""
        queue = self.box.queue("queue", ITEMS)
        item = queue.take(timeout=self.random.choice([0.1, 3.0]))
        if item is None:
            return
        if item in self.history.done["queue"]:
            raise BrokenPromiseError(f"item {item} was handed out after it was done")
        self.clock.sleep(self.random.expovariate(10))
        queue.done(item)
        self.history.done["queue"].append(item)

    def do_swap(self) -> None:
        """Raise a value by one, if nobody was faster."""
        value = self.box.value("value")
        seen = value.get()
        self._swapped(0, 1)
        swapped = value.compare_and_set(seen, (seen or 0) + 1)
        self._swapped(bool(swapped), -1)

    def _swapped(self, done: int, doubtful: int) -> None:
        before = self.history.swaps.get("value", (0, 0))
        self.history.swaps["value"] = (before[0] + done, before[1] + doubtful)

    # ---- two threads of one client

    def do_close_beside(self) -> None:
        """Close the box while a thread waits for work or a lease; then join again."""
        box = self.box

        def beside() -> None:
            try:
                if self.random.random() < 0.5:
                    item = box.queue("queue", ITEMS).take(timeout=2.0)
                    if item is not None:
                        box.queue("queue", ITEMS).done(item)
                        self.history.done["queue"].append(item)
                else:
                    box.lock("other lease", ttl=60.0, timeout=2.0)
            except (ModumError, OSError):
                pass

        self.clock.spawn(self.clock.task.process, beside, f"beside {self.number}")
        self.clock.sleep(self.random.expovariate(1000))
        self._reconnect()


KINDS = [name.removeprefix("do_") for name in vars(Client) if name.startswith("do_")]
Act = Callable[[], Any]
