"""What is started for each system: memory servers, parameter servers, workers."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cluster.network import address
from modum.cluster.by_hand import ByHand

if TYPE_CHECKING:
    from bench.cluster.case import Case

TOKEN = "emulated cluster"
PORT = 7500
RENDEZVOUS = 29500
LIGHTHOUSE = 29510
REMOTE = Path(__file__).with_name("remote.sh")


@dataclass(frozen=True, kw_only=True, slots=True)
class Process:
    """Something that runs on a host."""

    name: str
    host: int
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)


def server_commands(case: Case) -> list[tuple[list[str], str]]:
    """Servers that must be ready before workers start: the command, and what it prints then."""
    if case.system not in ("box", "pool"):
        return []
    commands = []
    for server in range(case.servers):
        host = address(case.host_of_server(server))
        command = [sys.executable, "-m", "modum", "server", "--host", host, "--port", str(PORT), "--memory", "1GiB"]
        commands.append((command, "listening on"))
    return commands


def commands(case: Case) -> list[Process]:
    """The workers, and what else starts with them."""
    if case.system == "mpi":
        return [_mpi(case, "bench.peers.allreduce")]
    if case.system == "accumulate":
        # somebody has to answer at a target that computes
        return [_mpi(case, "bench.peers.accumulate", MPIR_CVAR_ASYNC_PROGRESS="1")]
    if case.system == "tensorflow":
        return _tensorflow(case)
    own = {"box": "bench.cluster.worker", "pool": "bench.cluster.client"}
    module = own.get(case.system, f"bench.peers.{case.system}")
    workers = [
        Process(
            name=f"worker{rank}",
            host=case.host_of(rank),
            command=[sys.executable, "-m", module],
            environment=_place(case, rank),
        )
        for rank in range(case.workers)
    ]
    if case.system == "torchft":
        lighthouse = [
            _beside("torchft_lighthouse"),
            "--min_replicas",
            str(case.workers),
            "--bind",
            f"[::]:{LIGHTHOUSE}",
        ]
        workers.insert(0, Process(name="lighthouse", host=0, command=lighthouse))
    if case.system == "box" and case.accuracy is not None:
        watch = [sys.executable, "-m", "bench.cluster.observer", _box(case)]
        workers.append(Process(name="observer", host=case.host_of_watcher, command=watch))
    return workers


def _place(case: Case, rank: int) -> dict[str, str]:
    """As `modum run` and torchrun tell it."""
    host = case.host_of(rank)
    mates = [other for other in range(case.workers) if case.host_of(other) == host]
    place = ByHand(
        rank=rank,
        world_size=case.workers,
        local_rank=mates.index(rank),
        group_size=case.group_size,
        box_servers=tuple(_box(case).split(",")),
        token=TOKEN,
    )
    return {
        **place.variables(),
        "LOCAL_WORLD_SIZE": str(len(mates)),
        "MASTER_ADDR": address(0),
        "MASTER_PORT": str(RENDEZVOUS),
        "LIGHTHOUSE": f"http://{address(0)}:{LIGHTHOUSE}",
        # the members of a group meet inside their host: its bus is not shaped
        "GLOO_SOCKET_IFNAME": "lo" if case.system == "box" and case.group_size > 1 else "eth0",
    }


def _box(case: Case) -> str:
    """Addresses of all memory servers."""
    return ",".join(f"{address(case.host_of_server(server))}:{PORT}" for server in range(case.servers))


def _beside(program: str) -> str:
    """A program that was installed with this Python's packages."""
    return str(Path(sys.executable).with_name(program))


def _mpi(case: Case, module: str, **variables: str) -> Process:
    """mpiexec on the first host starts a proxy on every other one, as it does through ssh."""
    hosts = ",".join(f"{address(host)}:{case.workers // case.worker_hosts}" for host in range(case.worker_hosts))
    launcher = ["-launcher", "ssh", "-launcher-exec", str(REMOTE), "-iface", "eth0"]
    command = [_beside("mpiexec"), *launcher, "-hosts", hosts, "-n", str(case.workers)]
    return Process(
        name="mpiexec",
        host=0,
        command=[*command, sys.executable, "-m", module],
        environment={"UCX_TLS": "tcp", "UCX_NET_DEVICES": "eth0", "MPIR_CVAR_NOLOCAL": "1", **variables},
    )


def _tensorflow(case: Case) -> list[Process]:
    """Workers, parameter servers, and a coordinator."""
    cluster = {
        "worker": [f"{address(case.host_of(rank))}:{PORT + 100 + rank}" for rank in range(case.workers)],
        "ps": [f"{address(case.host_of_server(server))}:{PORT + server}" for server in range(case.servers)],
        "chief": [f"{address(case.host_of_watcher)}:{PORT + 99}"],
    }
    places = [("worker", rank, case.host_of(rank)) for rank in range(case.workers)]
    places += [("ps", server, case.host_of_server(server)) for server in range(case.servers)]
    places.append(("chief", 0, case.host_of_watcher))
    return [
        Process(
            name=f"{kind}{index}",
            host=host,
            command=[sys.executable, "-m", "bench.peers.tensorflow"],
            environment={
                "TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}}),
                "TF_NUM_INTRAOP_THREADS": "1",
                "TF_CPP_MIN_LOG_LEVEL": "2",
                "CUDA_VISIBLE_DEVICES": "",
                "BENCH_STEP": f"{case.step_of(index):.6f}",
            },
        )
        for kind, index, host in places
    ]
