"""The command and the environment of a worker started on this machine."""

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from modum.cluster.environment import HOST_VARIABLE, TIMEOUT_VARIABLE
from modum.cluster.modum_run import ModumRun
from modum.cluster.preemption import GRACE_VARIABLE
from modum.cluster.torch_variables import TORCH_VARIABLES, torch_variables
from modum.run.config import RunConfig
from modum.run.hosts import Part

__all__ = ["worker_command", "worker_environment"]

FRONT_ENDS: Final = ("modum.tensorflow.variables",)
"""Modules of front ends whose `worker_variables(threads)` are set for every worker, where the user has not set them."""


def worker_command(config: RunConfig) -> list[str]:
    """Return the command of a worker: the user's script or module, run by this interpreter."""
    return [sys.executable, *config.command]


def worker_environment(
    config: RunConfig,
    part: Part,
    number: int,
    box: Sequence[str],
    token: str | None,
    ports: Sequence[int],
    checkpoints: Mapping[str, str],
) -> dict[str, str]:
    """Return the launcher's own environment plus one worker's place in the job.

    The worker computes on one thread and its OpenMP threads sleep while they wait, as co-located workers that
    spin on each other's cores are several times slower; the user's own settings stay.

    Args:
        config: the job.
        part: this host's workers.
        number: the worker's among those of this host.
        box: addresses of the memory servers.
        token: the box's.
        ports: for each group of this host, where a script that uses torch.distributed itself finds the other members.
        checkpoints: the variable that tells of them, if they are taken.

    Returns:
        All of its environment variables.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in TORCH_VARIABLES}
    environment = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1", **inherited}
    if config.timeout is not None:
        environment[TIMEOUT_VARIABLE] = f"{config.timeout:g}s"
    if config.threads is not None:
        environment["OMP_NUM_THREADS"] = str(config.threads)
    threads = environment["OMP_NUM_THREADS"].split(",")[0]  # nested levels have numbers of their own
    for front_end in FRONT_ENDS:
        environment = {**importlib.import_module(front_end).worker_variables(threads), **environment}
    place = ModumRun(
        rank=part.first + number,
        world_size=part.world_size,
        local_rank=number,
        group_size=config.group_size,
        box_servers=tuple(box),
        token=token,
        job=config.name,
        launched=part.launched,
    )
    return environment | {
        **place.variables(),
        **torch_variables(place, ("127.0.0.1", ports[number // config.group_size])),
        HOST_VARIABLE: str(config.workers),
        GRACE_VARIABLE: f"{config.grace:g}s",
        **checkpoints,
    }
