"""The commands and environments of the processes that make a job on one machine."""

import os
import sys
from collections.abc import Sequence

from modum.cluster.modum_run import ModumRun
from modum.run.config import RunConfig

__all__ = ["worker_command", "worker_environment"]


def worker_command(plan: RunConfig) -> list[str]:
    """Return the command of one worker: the user's script or module, in the interpreter that this is."""
    return [sys.executable, *plan.command]


def worker_environment(plan: RunConfig, rank: int, box: Sequence[str], token: str | None, port: int) -> dict[str, str]:
    """Return the launcher's own environment, with the place of one worker in the job."""
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
    place = ModumRun(
        rank=rank,
        world_size=plan.workers,
        local_rank=rank,
        group_size=plan.group_size,
        box_servers=tuple(box),
        token=token,
        job=plan.name,
    )
    return environment | {
        **place.variables(),
        "LOCAL_WORLD_SIZE": str(plan.workers),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
