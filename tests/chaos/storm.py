"""Servers and clients in processes of their own, what is done to them, and the look at what is left."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Self

from modum.box import Box
from modum.box.protocol.limits import GRACE
from modum.box.server.process import ready_address, server_command
from modum.errors import BufferNotFoundError, ModumError
from modum.waiting import poll
from tests.chaos.client import ITEMS, NAMES, SIZES, STOP, TIMEOUT, TOKEN
from tests.chaos.proxy import FaultProxy, Harm
from tests.chaos.replay import Operation, operations_of, replay
from tests.simulation.final import look_at_names, look_at_numbers, look_at_what_is_held, look_at_work
from tests.simulation.history import BrokenPromiseError, History

ROOT = Path(__file__).parents[2]
MEMORY = 1 << 30
TRANSPORTS = ("tcp", "local", "tcp", "tcp", "local")
"""How the places reach the servers, in turn."""
AT_ONCE = 0.2
"""How likely the next trouble is in a turn of 20 ms: what waits for its byte is to come before more is done."""
SILENCE = 90.0
"""Seconds without an acknowledged operation after which nobody is served any more."""
LAST_CALL = 60.0
"""Seconds in which clients must come to an end once there is no more misfortune."""
OUTAGES = (0.3, GRACE + 0.5, GRACE + 1.0)
"""Seconds for which a server cannot be reached: shorter and longer than clients are remembered."""
TROUBLE = {
    "cut": 30,
    "reset": 20,
    "delay": 20,
    "throttle": 8,
    "half-open": 10,
    "lost answer": 3,
    "outage": 2,
    "kill": 3,
    "stop": 2,
    "stop a server": 1,
}
"""What is done, and how often one of them beside the others."""


@dataclass
class Result:
    """How it went.

    Attributes:
        history: what was promised.
        faults: how often each kind of fault was made.
        wrong: what was wrong, or nothing.
        seconds: how long it took.
    """

    history: History
    faults: Counter[str]
    wrong: str
    seconds: float


@dataclass
class Place:
    """Where one client process runs after the other.

    Attributes:
        number: of the place.
        transport: of its clients.
        life: how many there were before.
        process: that runs there now.
        errors: what the processes print.
        due: when a stopped one goes on.
        read: bytes of the journal of this life that were counted.
    """

    number: int
    transport: str
    life: int = 0
    process: "subprocess.Popen[bytes] | None" = None
    due: float = 0.0
    read: int = 0


@dataclass
class Storm:
    """A storm; a context manager that leaves nothing behind.

    Attributes:
        folder: for journals, and for what the processes print.
        seed: of all choices here; what comes of them depends on the machine, too.
        servers: how many.
        places: how many clients at one time.
    """

    folder: Path
    seed: int
    servers: int = 2
    places: int = 5
    faults: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.random = Random(self.seed)  # noqa: S311 - of a game
        self._stack = ExitStack()
        self._servers: list[subprocess.Popen[str]] = []
        self._proxies: list[FaultProxy] = []
        self._places = [Place(number, TRANSPORTS[number % len(TRANSPORTS)]) for number in range(self.places)]
        self._server_due: dict[int, float] = {}
        self.acknowledged = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self._end_processes)
            self._errors = stack.enter_context((self.folder / "errors").open("wb"))
            self._servers = [self._start_server() for _ in range(self.servers)]
            self._addresses = [self._address_of(server) for server in self._servers]
            self._proxies = [stack.enter_context(FaultProxy(one, self._note)) for one in self._addresses]
            for place in self._places:
                self._start(place)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._end_processes()
        self._stack.close()

    # ---- processes

    def _start_server(self) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            server_command(MEMORY),
            env={**os.environ, "MODUM_TOKEN": TOKEN},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,
        )

    @staticmethod
    def _address_of(server: "subprocess.Popen[str]") -> str:
        assert server.stdout is not None
        address = ready_address(server.stdout.readline().strip())
        if address is None:
            raise ModumError(f"a memory server ended with status {server.wait()} before it was ready")
        return address

    def _start(self, place: Place) -> None:
        """Start the next life of a place."""
        place.life += 1
        place.due, place.read = 0.0, 0
        addresses = [proxy.address for proxy in self._proxies]
        arguments = [self.folder, place.number, place.life, self.places, self.random.getrandbits(32), place.transport]
        place.process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.client", *map(str, arguments), *addresses],
            cwd=ROOT,
            stdout=self._errors,
            stderr=self._errors,
            start_new_session=True,
        )

    def _end_processes(self) -> None:
        for place in self._places:
            if place.process is not None:
                place.process.kill()
                place.process.wait()
        for server in self._servers:
            server.kill()
            server.wait()
            for pipe in (server.stdin, server.stdout):
                with suppress(OSError):
                    if pipe is not None:
                        pipe.close()

    # ---- trouble

    def _note(self, kind: str) -> None:
        self.faults[kind] += 1

    def _trouble(self) -> None:
        """Do one kind of harm, now or at the byte where it is due."""
        kind = self.random.choices(list(TROUBLE), list(TROUBLE.values()))[0]
        proxy = self.random.choice(self._proxies)
        match kind:
            case "kill":
                self._kill(self.random.choice(self._places))
            case "stop":
                self._stop(self.random.choice(self._places))
            case "stop a server":
                self._stop_server(self.random.randrange(self.servers))
            case "outage":
                self._note(kind)
                proxy.refuse(self.random.choice(OUTAGES))
            case "lost answer":
                proxy.lost_answers += 1
                for connection in self.random.sample(proxy.connections(), min(1, len(proxy.connections()))):
                    connection.end()
            case _:
                connections = [one for one in proxy.connections() if one.harm is None]
                if connections:
                    self.random.choice(connections).harm = self._harm(kind)

    def _harm(self, kind: str) -> Harm:
        """Return a harm of this kind, at a byte where it may do most."""
        large = self.random.random() < 0.1
        # an answer that is lost is of something that was done; a request that is late comes after others
        directions = {"cut": ["up", "down", "down"], "delay": ["up", "up", "down"]}.get(kind, ["up", "down"])
        outage = kind == "cut" and self.random.random() < 0.5
        return Harm(
            kind,
            self.random.choice(directions),
            self.random.choice([200_000, 1_500_000] if large else [0, 1, 63, 64, 65, self.random.randrange(2000)]),
            self.random.choice([0.1, 0.5, GRACE + 0.5, TIMEOUT + 0.5, TIMEOUT + 1.5]),
            self.random.choice(OUTAGES) if outage else 0.0,
        )

    def _kill(self, place: Place) -> None:
        assert place.process is not None
        self._note("kill")
        place.process.kill()
        place.process.wait()
        self._count(place)
        self._start(place)

    def _stop(self, place: Place) -> None:
        assert place.process is not None
        if not place.due and not (self.folder / STOP).exists():
            self._note("stop")
            place.due = time.monotonic() + self.random.choice([0.3, 1.0, GRACE + 1, 3 * GRACE])
            place.process.send_signal(signal.SIGSTOP)

    def _stop_server(self, index: int) -> None:
        if index not in self._server_due:
            self._note("stop a server")
            self._server_due[index] = time.monotonic() + self.random.choice([0.3, 1.0, GRACE + 1])
            self._servers[index].send_signal(signal.SIGSTOP)

    def _relieve(self, *, all_of_it: bool = False) -> None:
        """End what has lasted long enough."""
        now = float("inf") if all_of_it else time.monotonic()
        for place in self._places:
            if place.due and place.due <= now and place.process is not None:
                place.due = 0.0
                place.process.send_signal(signal.SIGCONT)
        for index, due in list(self._server_due.items()):
            if due <= now:
                del self._server_due[index]
                self._servers[index].send_signal(signal.SIGCONT)

    # ---- from beginning to end

    def run(self, operations: int, faults: int, progress: Callable[[int, int], None] = lambda *_: None) -> Result:
        """Do harm until enough was acknowledged in spite of it; then check everything.

        Args:
            operations: that must be acknowledged.
            faults: that must be made.
            progress: called with both every now and then.

        Returns:
            How it went.
        """
        start = time.monotonic()
        history, wrong = History(), ""
        before, served = 0, start
        try:
            while self.acknowledged < operations or self.faults.total() < faults:
                time.sleep(0.02)
                if self.acknowledged > before:
                    before, served = self.acknowledged, time.monotonic()
                if time.monotonic() - served > SILENCE:
                    raise BrokenPromiseError(f"no client was served in {SILENCE:g} s: see {self.folder}")
                self._relieve()
                self._look_after_clients()
                # no more faults than operations call for, so that both numbers are reached together
                due = self.faults.total() * operations <= self.acknowledged * faults
                if self.random.random() < (AT_ONCE if due else AT_ONCE / 20):
                    self._trouble()
                progress(self.acknowledged, self.faults.total())
            self._calm()
            found = operations_of(self.folder)
            history = replay(found)
            self._look(history, found)
            self._check_errors()
        except BrokenPromiseError as error:
            wrong = str(error)
        return Result(history, self.faults, wrong, time.monotonic() - start)

    def _look_after_clients(self) -> None:
        for place in self._places:
            assert place.process is not None
            self._count(place)
            if (status := place.process.poll()) is not None:
                raise BrokenPromiseError(
                    f"client {place.number}-{place.life} ended with status {status}: see {self.folder / 'errors'}"
                )
        for server in self._servers:
            if (status := server.poll()) is not None:
                raise BrokenPromiseError(f"a server ended with status {status}: see {self.folder / 'errors'}")

    def _count(self, place: Place) -> None:
        """Count what the client of a place was told since the last time."""
        path = self.folder / f"{place.number}-{place.life}.jsonl"
        with suppress(FileNotFoundError), path.open("rb") as file:
            file.seek(place.read)
            new = file.read()
            whole = new.rfind(b"\n") + 1
            place.read += whole
            self.acknowledged += new[:whole].count(b'"end": "done"')

    def _calm(self) -> None:
        """End all misfortune, and have the clients come to an end."""
        for proxy in self._proxies:
            proxy.settle()
        self._relieve(all_of_it=True)
        (self.folder / STOP).touch()
        for place in self._places:
            assert place.process is not None
            try:
                status = place.process.wait(LAST_CALL)
            except subprocess.TimeoutExpired:
                raise BrokenPromiseError(
                    f"client {place.number}-{place.life} did not come to an end in {LAST_CALL:g} s"
                ) from None
            if status:
                raise BrokenPromiseError(
                    f"client {place.number}-{place.life} ended with status {status}: see {self.folder / 'errors'}"
                )
        for proxy in self._proxies:
            proxy.cut_all()

    def _look(self, history: History, operations: list[Operation]) -> None:
        """Look at the box as a client that comes afterwards, and leave nothing in it."""
        with Box.connect(self._addresses, token=TOKEN, transport="tcp", timeout=20) as box:
            poll(
                lambda: all(look.clients == 1 for look in box.statistics().servers),
                timeout=20,
                error=lambda: BrokenPromiseError("sessions of the dead go on"),
            )
            look_at_what_is_held(box)
            look_at_numbers(box, history)
            queues = {one.name for one in operations if one.kind == "take" and one.result != "refused"}
            for name in sorted(queues):
                done = history.done[name]
                left = look_at_work(box, name, ITEMS, done)
                doubtful = {
                    one.what["item"] for one in operations if (one.kind, one.name, one.done) == ("finish", name, False)
                }
                if lost := set(range(ITEMS)) - set(done) - set(left) - doubtful:
                    raise BrokenPromiseError(f"items {sorted(lost)} of {name} are lost")
            look_at_names(box, NAMES, SIZES[0])
            self._look_at_memory(box, {one.name for one in operations})

    @staticmethod
    def _look_at_memory(box: Box, names: set[str]) -> None:
        """Every byte belongs to a buffer that somebody can delete."""
        for name in sorted(names):
            with suppress(BufferNotFoundError):
                box.delete(name)
        for look in box.statistics().servers:
            if look.used or look.buffers:
                raise BrokenPromiseError(
                    f"{look.used} bytes in {look.buffers} buffers of server {look.address} cannot be deleted"
                )
            if look.faults:
                raise BrokenPromiseError(f"server {look.address} had {look.faults} faults of its own")

    def _check_errors(self) -> None:
        """Nobody may have printed a traceback."""
        printed = (self.folder / "errors").read_text(errors="replace")
        if "Traceback" in printed:
            raise BrokenPromiseError(f"a process has printed a traceback: see {self.folder / 'errors'}")
