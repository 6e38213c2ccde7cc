"""One client in a process of its own, which does things at random until a file says that it is enough.

python -m tests.chaos.client FOLDER PLACE LIFE PLACES SEED TRANSPORT ADDRESS...

A place is taken by one process after the other: one that was killed has a successor, its next life.
"""

import logging
import os
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np

from modum.box import Box
from modum.box.buffer import Buffer
from modum.errors import ConnectionLostError, DeadlineError
from tests.chaos.journal import Doubt, Journal, Refusal, lines_of
from tests.simulation.history import AMOUNTS, amount_of

TOKEN = "of-this-storm"
TIMEOUT = 5.0
"""Seconds after which the clients' calls give up."""
TTL = 1.5
"""Seconds that leases last: less than the servers' grace, so that a lease ends before its holder's session does."""
SIZES = (96, 40_000, 300_000)
"""int64 numbers of buffers: on one server, on all, and in many chunks."""
NAMES = ("apple", "pear", "quince")
"""Buffers that come and go."""
ITEMS = 24
"""Items of a work queue."""
EXCHANGES = 4
"""Exchanges of one place with one buffer of weights, before it goes on to the next one."""
STOP = "stop"
"""The file that ends all clients."""


class Client:
    """One process.

    Args:
        folder: of the journals.
        place: number of the place.
        life: which one of the place.
        places: how many there are.
        seed: of its choices.
        transport: by which it reaches the servers.
        addresses: of the servers.
    """

    def __init__(
        self, folder: Path, place: int, life: int, places: int, seed: int, transport: str, addresses: list[str]
    ) -> None:
        earlier = [line for path in folder.glob(f"{place}-*.jsonl") for line in lines_of(path)]
        self.used = Counter(line["kind"] for line in earlier if "kind" in line)
        self.journal = Journal(folder / f"{place}-{life}.jsonl")
        self.random = Random(seed)  # noqa: S311 - of a game
        self.place, self.life = place, life
        self._parent = os.getppid()
        self._folder, self._places = folder, places
        self._transport, self._addresses = transport, addresses
        self._registers = 0
        self._written = 0
        self._buffers: dict[str, Buffer] = {}
        self.box: Box

    def run(self) -> None:
        """Do things until it is enough."""
        kinds = [name.removeprefix("do_") for name in vars(Client) if name.startswith("do_")]
        kinds += ["write", "add", "count"]  # what shows most
        if not self._connect():
            return
        while not self._enough():
            try:
                getattr(self, f"do_{self.random.choice(kinds)}")()
            except Doubt as error:
                if isinstance(error, ConnectionLostError) and not self._reconnect():
                    return
            except Refusal:
                pass
            if self.random.random() < 0.01 and not self._reconnect():
                return
        self.box.close()
        self.journal.close()

    def _enough(self) -> bool:
        return (self._folder / STOP).exists() or os.getppid() != self._parent

    def _connect(self) -> bool:
        while not self._enough():
            try:
                with self.journal.operation("connect", "box"):
                    self.box = Box.connect(
                        self._addresses, token=TOKEN, transport=self._transport, timeout=TIMEOUT, threads=1
                    )
            except Doubt:
                continue
            self._registers += 1
            self._written = 0
            return True
        return False

    def _reconnect(self) -> bool:
        self.box.close()
        self._buffers.clear()
        return self._connect()

    def _turn(self, kind: str) -> tuple[int, int]:
        """Return a generation, and the number of an amount in it that nobody else adds."""
        number = self.used[kind]
        self.used[kind] += 1
        each = AMOUNTS // self._places
        return number // each, self.place + self._places * (number % each)

    def _buffer(self, name: str, size: int, dtype: str = "int64") -> Buffer:
        buffer = self._buffers.get(name)
        if buffer is None:
            while len(self._buffers) >= 8:  # as many descriptors as a worker of a real job has
                self._buffers.pop(next(iter(self._buffers))).close()
            buffer = self._buffers[name] = self.box.open_or_create(name, size, dtype)
        return buffer

    # ---- sums

    def do_count(self) -> None:
        """Add to a counter."""
        generation, number = self._turn("count")
        name, amount = f"counter.{generation}", amount_of(number)
        with self.journal.operation("count", name, amount=amount) as seen:
            seen["seen"] = self.box.counter(name).add(amount)

    def do_add(self) -> None:
        """Add to a buffer."""
        generation, number = self._turn("add")
        name, size, amount = f"sum.{generation}", SIZES[generation % len(SIZES)], amount_of(number)
        with self.journal.operation("add", name, amount=amount):
            self._buffer(name, size).add(np.full(size, amount, np.int64))

    def do_read(self) -> None:
        """Read a sum."""
        generation = max(0, self.used["add"] - 1) // (AMOUNTS // self._places)
        name, size = f"sum.{generation}", SIZES[generation % len(SIZES)]
        with self.journal.operation("read", name) as seen:
            seen["seen"] = np.unique(self._buffer(name, size).read()).tolist()

    # ---- registers

    def do_write(self) -> None:
        """Write to this session's own buffer; what is in doubt is written again, newer, and must stay."""
        size = SIZES[(self.place + self._registers) % len(SIZES)]
        name = f"own.{self.place}.{self.life}.{self._registers}"
        try:
            self._write(name, size)
        except DeadlineError:
            self._write(name, size)
            self._registers += 1
            self._written = 0

    def _write(self, name: str, size: int) -> None:
        self._written += 1
        with self.journal.operation("write", name, value=self._written):
            self._buffer(name, size).write(np.full(size, self._written, np.int64))

    def do_watch(self) -> None:
        """Read somebody's own buffer."""
        with self.journal.operation("list", "box") as seen:
            names = [info.name for info in self.box.list() if info.name.startswith("own.")]
            seen["count"] = len(names)
        if names:
            name = self.random.choice(names)
            with self.journal.operation("watch", name) as seen:
                buffer = self.box.open(name)
                try:
                    seen["seen"] = np.unique(buffer.read()).tolist()
                finally:
                    buffer.close()

    # ---- exchanges

    def do_exchange(self) -> None:
        """Exchange with shared weights: what they take, this client gives."""
        name = f"weights.{self.used['exchange'] // EXCHANGES}"
        self.used["exchange"] += 1
        x = np.full(8, 64.0 * (self.place + 1), np.float32)
        with self.journal.operation("exchange", name) as seen:
            before = x.copy()
            self._buffer(name, 8, "float32").exchange(x, 0.5)
            seen["given"] = (before - x).tolist()

    # ---- names that come and go

    def do_create(self) -> None:
        """Make a buffer, and put a number of its own into it."""
        name = self.random.choice(NAMES)
        self.used["create"] += 1
        content = (self.used["create"] * self._places + self.place) * 1000 + self.life
        buffer = None
        with self.journal.operation("create", name, content=content):
            buffer = self.box.create(name, SIZES[0], "int64")
        try:
            with self.journal.operation("fill", name, content=content):
                buffer.add(np.full(SIZES[0], content, np.int64))
        finally:
            buffer.close()

    def do_delete(self) -> None:
        """Delete one."""
        name = self.random.choice(NAMES)
        with self.journal.operation("delete", name):
            self.box.delete(name)

    def do_open(self) -> None:
        """Open one, and read it."""
        name = self.random.choice(NAMES)
        with self.journal.operation("open", name):
            buffer = self.box.open(name)
        try:
            with self.journal.operation("look", name) as seen:
                seen["seen"] = np.unique(buffer.read()).tolist()
        finally:
            buffer.close()

    # ---- what workers agree by

    def do_lock(self) -> None:
        """Hold a lease for a while: nobody else may meanwhile."""
        with self.journal.operation("lock", "lease") as seen:
            lease = self.box.lock("lease", ttl=TTL, timeout=self.random.choice([0.2, 3.0]))
            now = time.monotonic()
            seen["now"], seen["until"] = now, now + lease.left
        time.sleep(self.random.expovariate(50))
        if self.random.random() < 0.2:
            with self.journal.operation("renew", "lease") as seen:
                lease.renew()
                now = time.monotonic()
                seen["now"], seen["until"] = now, now + lease.left
        with self.journal.operation("release", "lease"):
            lease.release()

    def do_take(self) -> None:
        """Take an item of work, and finish it."""
        name = f"queue.{self.used['take'] * self._places // ITEMS}"
        self.used["take"] += 1
        with self.journal.operation("take", name) as seen:
            queue = self.box.queue(name, ITEMS)
            item = seen["item"] = queue.take(timeout=self.random.choice([0.1, 2.0]))
        if item is not None:
            time.sleep(self.random.expovariate(100))
            with self.journal.operation("finish", name, item=item):
                queue.done(item)

    def do_swap(self) -> None:
        """Raise a value by one, if nobody was faster."""
        value = self.box.value("value")
        with self.journal.operation("get", "value") as seen:
            found = seen["seen"] = value.get() or 0
        with self.journal.operation("swap", "value", expected=found) as seen:
            seen["swapped"] = value.compare_and_set(found or None, found + 1)


def main() -> None:
    """Be the client that the arguments describe."""
    folder, place, life, places, seed, transport, *addresses = sys.argv[1:]
    logging.getLogger("modum").setLevel(logging.CRITICAL)
    client = Client(Path(folder), int(place), int(life), int(places), int(seed), transport, addresses)
    client.run()


if __name__ == "__main__":
    main()
