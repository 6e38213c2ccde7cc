"""One measurement: what trains, on which cluster, for how long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

System = Literal["box", "pool", "ddp", "mpi", "accumulate", "tensorflow", "hivemind", "torchft", "deepspeed"]
Model = Literal["dense", "cnn", "rnn"]
Operation = Literal["read", "add", "exchange"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """What is measured.

    system
        What moves the parameters. In a ``pool`` nobody trains: clients do ``operation`` on one buffer, again and again.
    workers, hosts, group_size
        Workers are spread over ``hosts`` in the order of their ranks; those of a group share a host.
    servers
        Memory servers of a box, or parameter servers.
    colocated
        The servers run on the workers' hosts, one each; else each has a host of its own.
    model, nbytes
        ``dense`` has ``nbytes`` of weights and hardly computes; ``cnn`` and ``rnn`` learn Fashion-MNIST.
    step_seconds
        To which a step is padded by sleeping, as if a GPU computed; forward a third, backward two.
    rate
        Bytes per second of every host's link, each way; None: unshaped.
    interval, overlap, moving_rate, compression
        Of the box.
    slow, slowdown
        So many workers (the last ones) need ``slowdown`` times as long.
    warm_up
        Steps of every worker before the measurement.
    seconds, steps
        How long it lasts; where given, no longer than so many steps of all workers.
    accuracy
        Where given, weights are kept now and then and tested afterwards.
    batch, optimizer, learning_rate, momentum
        Of each worker. Adam has its usual moments.
    """

    system: System = "box"
    workers: int = 1
    hosts: int | None = None
    group_size: int = 1
    servers: int = 1
    colocated: bool = False
    model: Model = "dense"
    nbytes: int = 32 << 20
    step_seconds: float = 2.0
    rate: float | None = None
    operation: Operation = "exchange"
    interval: int | Literal["auto"] = 1
    overlap: bool = True
    moving_rate: float | Literal["auto"] = "auto"
    compression: Literal["none", "bfloat16", "int8"] = "none"
    slow: int = 0
    slowdown: float = 1.0
    warm_up: int = 3
    seconds: float = 30.0
    steps: int | None = None
    accuracy: float | None = None
    batch: int = 32
    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = 0.05
    momentum: float = 0.9

    @property
    def worker_hosts(self) -> int:
        """Hosts with workers."""
        return self.hosts or self.workers

    @property
    def has_servers(self) -> bool:
        """Whether anything but workers takes part."""
        return self.system in ("box", "pool", "tensorflow")

    def host_of(self, rank: int) -> int:
        """Where a worker runs."""
        return rank * self.worker_hosts // self.workers

    def host_of_server(self, server: int) -> int:
        """Where a server runs."""
        return server if self.colocated else self.worker_hosts + server

    @property
    def host_of_watcher(self) -> int:
        """Where weights are kept to be tested, or where TensorFlow's coordinator runs: where it costs nobody a link."""
        return self._hosts if self.accuracy is not None else self.host_of_server(0)

    @property
    def all_hosts(self) -> int:
        """Hosts of the cluster."""
        return self._hosts + (self.has_servers and self.accuracy is not None)

    @property
    def _hosts(self) -> int:
        return self.worker_hosts + (self.servers if self.has_servers and not self.colocated else 0)

    def step_of(self, rank: int) -> float:
        """Seconds of a step of this worker."""
        return self.step_seconds * (self.slowdown if rank >= self.workers - self.slow else 1.0)

    @property
    def ideal(self) -> float:
        """Steps per second of all workers together if none ever waited."""
        return sum(1 / self.step_of(rank) for rank in range(self.workers))
