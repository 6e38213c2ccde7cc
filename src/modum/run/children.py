"""The commands and environments of the processes that make a job on one machine."""

import os
import re
import sys
from collections.abc import Sequence

from modum.cluster.modum_run import LAUNCHER_VARIABLE, MODUM_RUN
from modum.run.config import RunConfig

__all__ = [
    "ready_address",
    "server_command",
    "server_environment",
    "worker_command",
    "worker_environment",
]

_READY = re.compile(r"modum server listening on (\S+)")


def server_command(memory: int, host: str = "127.0.0.1") -> list[str]:
    """A memory server of `memory` bytes at `host` that chooses its port, and stops when its standard input ends."""
    # -P: a file in the working directory must not stand in for a module of the same name.
    server = [sys.executable, "-P", "-m", "modum", "server", "--host", host, "--port", "0"]
    return [*server, "--memory", str(memory), "--stop-with-stdin"]


def server_environment(token: str) -> dict[str, str]:
    """The launcher's own environment, with the token of the job."""
    return {**os.environ, "MODUM_TOKEN": token}


def ready_address(line: str) -> str | None:
    """The address in the line by which a memory server says that it is ready; None for any other line."""
    match = _READY.fullmatch(line)
    return match[1] if match else None


def worker_command(plan: RunConfig) -> list[str]:
    """One worker: the user's script or module, in the interpreter that this is."""
    return [sys.executable, *plan.command]


def worker_environment(plan: RunConfig, rank: int, box: Sequence[str], token: str | None, port: int) -> dict[str, str]:
    """The launcher's own environment, with the place of one worker in the job.

    The worker computes on one thread and its OpenMP threads sleep while they wait, as co-located workers that
    spin for each other's cores are several times slower; what the user has set stays. TensorFlow has thread pools
    of its own, takes a GPU's whole memory if it is not told otherwise, and greets every worker with several lines.
    """
    environment = {
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONUNBUFFERED": "1",
        "TF_CPP_MIN_LOG_LEVEL": "1",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        **os.environ,
    }
    if plan.threads is not None:
        environment["OMP_NUM_THREADS"] = str(plan.threads)
    threads = environment["OMP_NUM_THREADS"].split(",")[0]  # nested levels have numbers of their own
    environment = {"TF_NUM_INTRAOP_THREADS": threads, "TF_NUM_INTEROP_THREADS": threads, **environment}
    environment |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(plan.workers),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(plan.workers),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "MODUM_GROUP_SIZE": str(plan.group_size),
        "MODUM_BOX": ",".join(box),
        "MODUM_JOB": plan.name,
        LAUNCHER_VARIABLE: MODUM_RUN,
    }
    if token is not None:
        environment["MODUM_TOKEN"] = token
    return environment
