"""One simulated world: servers, clients and misfortune, all from one seed; and the check of what was promised in it."""

import gc
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from modum.box import Box
from modum.box.protocol.limits import GRACE
from modum.box.server import server as server_module
from modum.errors import ModumError
from tests.simulation.clients import ITEMS, KINDS, NAMES, NUMBERS, TIMEOUTS, Client
from tests.simulation.clockwork import Clockwork, Gone, Process
from tests.simulation.final import look_at_names, look_at_numbers, look_at_what_is_held, look_at_work
from tests.simulation.history import BrokenPromiseError, History
from tests.simulation.install import installed
from tests.simulation.network import Link, Network, Socket

TOKEN = "the token of this world"
MEMORY = 1 << 20
PATIENCE = 30.0
"""Seconds after which the final look gives up: whoever was stopped goes on before."""
LONGEST = 400.0
"""Seconds within which all clients of a world must have come to an end."""
logging.getLogger("modum").setLevel(logging.CRITICAL)


@dataclass
class Result:
    """What came of a world.

    Attributes:
        seed: that makes it again.
        wrong: what was wrong, or nothing.
        history: what happened.
        faults: how often something was made to happen.
        events: how many steps it took.
    """

    seed: int
    wrong: str
    history: History
    faults: int
    events: int
    misfortunes: dict[str, int] = field(default_factory=dict)


class World:
    """A world before its end.

    Args:
        seed: of everything.
        log: called with what happens.
    """

    def __init__(self, seed: int, log: Callable[[str], object] = lambda text: None) -> None:
        self.seed = seed
        self.clock = Clockwork(seed)
        self.log = log
        random = self.random = self.clock.random
        self.network = Network(self.clock, delay=random.choice([1e-4, 1e-3, 2e-2]))
        self.network.deliver = self.fate
        self.history = History()
        self.faults = 0
        self.calm = False
        self.misfortunes: dict[str, int] = {}
        self.servers: list[tuple[Process, server_module.Server]] = []
        self.clients: list[tuple[Process, Client]] = []
        # each world has its own mixture: what is rare among many faults is frequent among few
        self.cut_chance = random.choice([0.0, 0.0, 0.002, 0.01, 0.05])
        self.outage_chance = random.choice([0.0, 0.3, 0.7])
        self.kinds = sorted(random.sample(KINDS, random.randrange(1, 6)))
        if random.random() < 0.2:
            self.kinds = ["create", "delete", "open"]  # races for a name need all of them
        self.kills = random.choice([0, 0, 1, 2])
        self.vanish_chance = random.choice([0.0, 0.5])
        self.timeout = random.choice(TIMEOUTS)
        self.stops = random.choice([0, 0, 0, 1])
        self.loiterers = random.choice([0, 0, 0, 100])
        self.starved = random.choice([0, 0, 0, 1])
        self.deaths = random.choice([0, 0, 0, 0, 0, 0, 0, 1])
        self.harmless = not (self.cut_chance or self.stops or self.starved or self.deaths or self.clock.pauses)
        """Whether nothing is made to happen that could excuse a client which is not served."""

    # ---- misfortune

    def fate(self, link: Link, data: bytes) -> str:
        """What becomes of a packet."""
        if self.calm or not self.cut_chance or self.random.random() > self.cut_chance:
            return ""
        fate = self.random.choice(["cut", "cut", "after", "after", "half", "lose"])
        self.note(fate)
        if self.random.random() < self.outage_chance:
            self.outage(link)
        return fate

    def outage(self, link: Link) -> None:
        """Let nothing through between two hosts for a while."""
        one, other = (end.host for end in link.ends)
        self.note("outage")
        self.network.silence(one, other, self.random.choice([0.3, 1.0, GRACE + 0.5, GRACE + 1.5, 2 * GRACE]))

    def note(self, what: str) -> None:
        """Count a misfortune."""
        self.faults += 1
        self.misfortunes[what] = self.misfortunes.get(what, 0) + 1
        self.log(f"{self.clock.now / 1e6:10.6f} {what}")

    def kill_someone(self) -> None:
        """End a client that still has something to do; perhaps its host loses its power, and nobody is told."""
        living = [process for process, client in self.clients if process.alive and not client.finished]
        if living and not self.calm:
            process = self.random.choice(living)
            if self.random.random() < self.vanish_chance:
                self.note(f"vanish {process.name}")
                self.network.vanish(process)
            else:
                self.note(f"kill {process.name}")
            process.kill()
            self.start_client(len(self.clients), process.host)

    def stop_someone(self) -> None:
        """Stop a process for a while, as SIGSTOP does."""
        living = [process for process, _ in [*self.clients, *self.servers] if process.alive]
        if living and not self.calm:
            process = self.random.choice(living)
            self.note(f"stop {process.name}")
            process.stopped = True
            self.clock.at(self.random.choice([0.5, GRACE + 1, 5 * GRACE]), lambda: self.clock.resume(process))

    def loiter(self) -> None:
        """Come to a server's doors with many connections, and say nothing."""
        self.note("loiter")
        process = Process("loiterer", "10.0.6.6")
        address = (f"10.0.0.{self.random.randrange(self.count) + 1}", 7000)
        address = (address[0], 7000 + int(address[0].rpartition(".")[2]) - 1)

        def stand() -> None:
            there = []
            with suppress(OSError):
                for _ in range(self.loiterers):
                    there.append(self.network.socket())
                    there[-1].connect(address)
            self.clock.sleep(60.0)

        self.clock.spawn(process, stand, process.name)

    def starve(self) -> None:
        """Let no thread be started on a server for a while."""
        if self.calm:
            return
        self.note("starve")
        server, _ = self.random.choice(self.servers)
        server.starved = True

        def end() -> None:
            server.starved = False

        self.clock.at(self.random.choice([0.1, 1.0]), end)

    def end_a_server(self) -> None:
        """End a server: what it held is lost, and nobody may be told otherwise."""
        if not self.calm:
            process, _ = self.random.choice(self.servers)
            self.note(f"death of {process.name}")
            process.kill()
            self.history.dead = True

    # ---- the world

    def start_server(self, index: int) -> None:
        """Start a server."""
        host = f"10.0.0.{index + 1}"
        process = Process(f"server {index}", host)

        def work() -> None:
            server = server_module.Server(host, 7000 + index, memory=MEMORY, token=TOKEN)
            self.servers.append((process, server.start()))

        self.clock.spawn(process, work, process.name)

    def start_client(self, number: int, host: str) -> None:
        """Start a client."""
        process = Process(f"client {number}", host)
        local = self.count == 1 and host == "10.0.0.1"
        client = Client(
            self.clock,
            self.history,
            number,
            [f"10.0.0.{index + 1}:{7000 + index}" for index in range(self.count)],
            "local" if local else "tcp",
            TOKEN,
            self.random.randrange(3, 16),
            self.kinds,
            self.random.getrandbits(32),
            self.timeout,
            self.harmless,
        )
        self.clients.append((process, client))
        self.clock.spawn(process, client.run, process.name)

    def run(self) -> Result:
        """Play the world to its end, and check it."""
        open_before = descriptors()
        wrong = ""
        collecting = gc.isenabled()
        gc.disable()  # tasks of dead processes would clean up in the middle of the others' turns, whenever it likes
        try:
            with installed(self.clock, self.network):
                try:
                    self.play()
                    self.check()
                except BrokenPromiseError as error:
                    wrong = str(error)
                except ModumError as error:
                    wrong = f"the check ended with {type(error).__name__}: {error}"
                if self.clock.failed:
                    task = self.clock.failed[0]
                    wrong = f"{task.process.name}, thread {task.name}: {type(task.error).__name__}: {task.error}"
                self.clock.close()
        finally:
            self.servers.clear()
            self.clients.clear()
            gc.collect(0)
            if collecting:
                gc.enable()
            for descriptor in descriptors() - open_before:
                try:
                    os.close(int(descriptor))
                except OSError:
                    pass  # the listing's own
        return Result(self.seed, wrong, self.history, self.faults, self.clock.events, self.misfortunes)

    def play(self) -> None:
        """Let everybody do what they do, with misfortune, until all clients have ended."""
        self.count = self.random.choice([1, 1, 2, 3])
        for index in range(self.count):
            self.start_server(index)
        self.clock.run(60.0, lambda: len(self.servers) == self.count)
        self.servers.sort(key=lambda each: each[0].name)
        self.begin()

    def begin(self) -> None:
        """Have clients come, and misfortune, until all clients have ended."""
        for number in range(self.random.randrange(1, 5)):
            self.start_client(number, self.random.choice(["10.0.0.1", "10.0.1.1", "10.0.1.2"]))
        for _ in range(self.kills):
            self.clock.at(self.random.expovariate(1), self.kill_someone)
        if self.loiterers:
            self.clock.at(self.random.random() * 0.05, self.loiter)
        if self.starved:
            self.clock.at(self.random.expovariate(5), self.starve)
        for _ in range(self.deaths):
            self.clock.at(self.random.expovariate(2), self.end_a_server)
        for _ in range(self.stops):
            self.clock.at(self.random.expovariate(1), self.stop_someone)
        self.clock.at(self.random.choice([5.0, 20.0]), self.settle)
        if not self.clock.run(LONGEST, lambda: self.all_ended() or bool(self.clock.failed)):
            left = [process.name for process, client in self.clients if process.alive and not client.finished]
            raise BrokenPromiseError(f"{', '.join(left)} did not come to an end in {LONGEST:g} s")

    def settle(self) -> None:
        """No more misfortune."""
        self.calm = True
        self.network.silent.clear()
        self.clock.pauses = 0.0

    def all_ended(self) -> bool:
        """Whether no client has anything left to do."""
        return all(client.finished or not process.alive for process, client in self.clients)

    # ---- afterwards

    def check(self) -> None:
        """Hold the final state against everything that was promised."""
        if self.history.dead:
            return
        self.settle()
        process = Process("checker", "10.0.9.9")
        done: list[str] = []

        def work() -> None:
            try:
                self.look()
            except Gone:
                raise
            except BrokenPromiseError as error:
                done.append(str(error))
            except Exception as error:  # noqa: BLE001 - of whatever kind, it is wrong
                done.append(f"the final look ended with {type(error).__name__}: {error}")
            done.append("")

        self.clock.spawn(process, work, process.name)
        if not self.clock.run(LONGEST, lambda: bool(done)):
            raise BrokenPromiseError(f"the final look did not come to an end in {LONGEST:g} s")
        if done[0]:
            raise BrokenPromiseError(done[0])

    def wait_until_alone(self, box: Box) -> None:
        """Wait for as long as servers may take to know who has gone."""
        for _ in range(round(GRACE) + 40):
            self.clock.sleep(1.0)
            if all(server.clients == 1 for server in box.statistics().servers):
                return

    def look(self) -> None:
        """Look at the final state, as a client that comes afterwards."""
        addresses = [f"10.0.0.{index + 1}:{7000 + index}" for index in range(self.count)]
        box = Box.connect(addresses, token=TOKEN, transport="tcp", timeout=PATIENCE, threads=1)
        self.wait_until_alone(box)
        look_at_numbers(box, self.history)
        if "take" in self.kinds or "close_beside" in self.kinds:
            look_at_work(box, "queue", ITEMS, self.history.done["queue"])
        look_at_names(box, NAMES, NUMBERS)
        self.wait_until_alone(box)  # a connection that was under way may have come since
        look_at_what_is_held(box)
        box.close()


def play(seed: int, log: Callable[[str], object] = lambda text: None) -> Result:
    """Play the world of a seed."""
    return World(seed, log).run()


def descriptors() -> set[str]:
    """Return the open descriptors of this process."""
    return {path.name for path in Path("/proc/self/fd").iterdir()}


__all__ = ["Result", "Socket", "World", "play"]
