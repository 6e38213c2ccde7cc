"""Simulated worlds of servers that stand in for each other: they die, stop and are cut off, and nothing is lost."""

from collections.abc import Callable

from modum.box.server import server as server_module
from modum.box.server.replication.ring import Replication
from tests.simulation.clockwork import Process
from tests.simulation.world import MEMORY, TOKEN, Result, World


class ReplicatedWorld(World):
    """A world with three servers, of which one may be lost at any time, as soon as all stand in for each other again.

    Args:
        seed: of everything.
        log: called with what happens.
    """

    count = 3

    def __init__(self, seed: int, log: Callable[[str], object] = lambda text: None) -> None:
        super().__init__(seed, log)
        random = self.random
        self.loiterers = self.starved = self.deaths = 0
        self.harmless = False
        self.stops = random.choice([0, 0, 1, 2])
        self.losses = random.choice([0, 1, 2, 4])
        self.partitions = random.choice([0, 0, 1, 3])

    def start_server(self, index: int) -> None:
        """Start a server, or start it again."""
        host = f"10.0.0.{index + 1}"
        process = Process(f"server {index}", host)

        def work() -> None:
            addresses = [f"10.0.0.{each + 1}:{7000 + each}" for each in range(self.count)]
            replication = Replication(addresses, index)
            server = server_module.Server(host, 7000 + index, memory=MEMORY, token=TOKEN, replication=replication)
            self.servers = [each for each in self.servers if each[0].name != process.name]
            self.servers.append((process, server.start()))
            self.servers.sort(key=lambda each: each[0].name)

        self.clock.spawn(process, work, process.name)

    def whole(self) -> bool:
        """Whether every place of the box has a primary and a backup."""
        alive = [server for process, server in self.servers if process.alive and not process.stopped]
        stands = {place: stand for server in alive for place, stand in server.stands.items()}
        backed = len(stands) == self.count and all(stand.backup >= 0 for stand in stands.values())
        return backed and len(alive) == self.count and all(server.votes for server in alive)

    def lose_a_server(self) -> None:
        """Kill a server, once another one may be lost, and start it again some time later."""
        if self.calm:
            return
        if not self.whole():
            self.clock.at(0.2, self.lose_a_server)
            return
        process, _ = self.random.choice(self.servers)
        self.note(f"loss of {process.name}")
        if self.random.random() < self.vanish_chance:
            self.network.vanish(process)
        process.kill()
        index = int(process.name.split()[1])
        self.clock.at(self.random.choice([0.0, 0.5, 3.0]), lambda: self.start_server(index))

    def part(self) -> None:
        """Let nothing through between a server and some others, servers and clients."""
        if self.calm:
            return
        one = f"10.0.0.{self.random.randrange(self.count) + 1}"
        hosts = [f"10.0.0.{index + 1}" for index in range(self.count)] + ["10.0.1.1", "10.0.1.2"]
        self.note("partition")
        seconds = self.random.choice([0.4, 1.2, 3.0, 8.0])
        for other in hosts:
            if other != one and self.random.random() < 0.6:
                self.network.silence(one, other, seconds)

    def play(self) -> None:
        """Let everybody do what they do, with misfortune, until all clients have ended."""
        for index in range(self.count):
            self.start_server(index)
        self.clock.run(60.0, lambda: len(self.servers) == self.count and self.whole())
        for _ in range(self.losses):
            self.clock.at(self.random.random() * 6.0, self.lose_a_server)
        for _ in range(self.partitions):
            self.clock.at(self.random.expovariate(0.5), self.part)
        self.begin()


def play(seed: int, log: Callable[[str], object] = lambda text: None) -> Result:
    """Play the world of a seed."""
    return ReplicatedWorld(seed, log).run()
