"""The machines of a job and what one exchange moves through each place of them."""

from __future__ import annotations

from dataclasses import dataclass

from modum.box.protocol.layout import Layout, stripe_bytes
from modum.box.protocol.limits import CHUNK

SERVER_PASSES = 2
"""An exchange reads and writes each shared number once in the server's memory; the rest stays in its caches."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """Workers, groups and memory servers, and the speeds between them.

    All bandwidths are bytes per second; those of links are per direction, and both directions are used at once.

    Attributes:
        workers: number of workers, a multiple of `group_size`.
        group_size: workers in a group; consecutive ranks make a group.
        servers: number of memory servers; buffers are striped over them as in `modum.box`.
        link: bandwidth of a worker's network card.
        server_link: bandwidth of a memory server's network card; None: the same as a worker's.
        server_memory: bandwidth at which a memory server combines numbers in its memory, reads and writes counted.
        bus: bandwidth between the workers of a group (NVLink, PCIe, or the network), in each direction.
        copy: bandwidth at which a worker copies its own weights: the snapshot before an exchange, the correction after
            it.
        latency: seconds for a message, one way.
        colocated: whether the servers run on the first workers' machines and share their links; every worker has its
            own machine.
    """

    workers: int = 8
    group_size: int = 1
    servers: int = 1
    link: float = 1.25e9
    server_link: float | None = None
    server_memory: float = 10e9
    bus: float = 10e9
    copy: float = 25e9
    latency: float = 50e-6
    colocated: bool = False

    def __post_init__(self) -> None:
        for what in ("workers", "group_size", "servers"):
            if (value := getattr(self, what)) < 1:
                raise ValueError(f"{what} ({value}) must be at least 1")
        for what in ("link", "server_link", "server_memory", "bus", "copy"):
            if (value := getattr(self, what)) is not None and not value > 0:
                raise ValueError(f"{what} ({value:g} bytes per second) must be greater than 0")
        if not self.latency >= 0:
            raise ValueError(f"latency ({self.latency} s) must be at least 0")
        if self.workers % self.group_size:
            fitting = ", ".join(str(size) for size in range(1, self.workers + 1) if self.workers % size == 0)
            raise ValueError(
                f"group_size ({self.group_size}) must divide workers ({self.workers}): it can be {fitting}"
            )
        if self.colocated and self.servers > self.workers:
            raise ValueError(
                f"servers ({self.servers}) that share the workers' machines cannot be more than those ({self.workers})"
            )

    @property
    def groups(self) -> int:
        """Number of groups of workers; each exchanges as one."""
        return self.workers // self.group_size

    @property
    def server_link_speed(self) -> float:
        """Bytes per second, one direction, of a server's link."""
        return self.server_link or self.link

    def largest_part(self, nbytes: int) -> float:
        """Return the largest share of a buffer of `nbytes` that lies on one server: 1 / servers at best."""
        return max(self._parts(nbytes)) / nbytes

    def _parts(self, nbytes: int) -> list[int]:
        """Return the bytes of a buffer of `nbytes` on each server."""
        return list(Layout(nbytes, 0, self.servers, stripe_bytes(nbytes, self.servers)).segments())

    def flow(self, nbytes: int, exchanging: int) -> float:
        """Return the bytes per second, each way, of one exchange while `exchanging` groups exchange `nbytes` each.

        Every place is shared equally among the exchanges (roughly as TCP does), and an exchange is as fast as its
        slowest place.
        """
        part, members = self.largest_part(nbytes), self.group_size
        memory = self.server_memory / (SERVER_PASSES * part * exchanging)
        if not self.colocated:
            return min(members * self.link, self.server_link_speed / (part * exchanging), memory)
        if self.workers == 1:
            return memory
        # a machine with a server carries its own worker's remote part, and the other workers' parts on its server
        own = 1 / members
        busiest = own * (1 - part) + part * (exchanging - own)
        if self.servers < self.workers or not min(self._parts(nbytes)):
            busiest = max(busiest, own)  # a worker without a server on its own machine
        return min(self.link / busiest, memory)

    def tail(self, nbytes: int) -> float:
        """Return the seconds of an exchange beyond its bytes: the round trip, and the return of the last chunk."""
        last = min(CHUNK, nbytes * self.largest_part(nbytes) / self.group_size)
        alone = self.flow(nbytes, 1)
        return 2 * self.latency + (last / self.largest_part(nbytes) / alone if self.workers > self._free else 0.0)

    @property
    def _free(self) -> int:
        """Number of workers whose exchange crosses no link: a single one on its own server's machine."""
        return 1 if self.colocated else 0

    def group_average(self, nbytes: int) -> float:
        """Return the seconds of a ring all-reduce of `nbytes` in a group: 2 (m - 1) / m of them through each bus."""
        members = self.group_size
        return 2 * (members - 1) / members * nbytes / self.bus + 2 * (members - 1) * self.latency * (members > 1)

    def ring(self, nbytes: int, workers: int | None = None) -> float:
        """Return the seconds of a ring all-reduce of `nbytes` over the links of `workers`, by default all."""
        workers = workers or self.workers
        return 2 * (workers - 1) / workers * nbytes / self.link + 2 * (workers - 1) * self.latency

    def boundary(self, nbytes: int) -> float:
        """Return the seconds that an exchange delays its workers: snapshot, correction, transfer to the members."""
        members = self.group_size
        spread = (members - 1) / members * nbytes / self.bus
        return (nbytes / members + nbytes) / self.copy + spread


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A place that bytes go through while all groups exchange at the planned interval.

    Attributes:
        name: the place's name.
        demand: bytes per second that the job needs, both directions together for a link.
        capacity: bytes per second that the place can carry, counted the same way.
    """

    name: str
    demand: float
    capacity: float

    @property
    def load(self) -> float:
        """Demand divided by capacity; more than 1 means that the job is slowed down."""
        return self.demand / self.capacity
