"""The environment variables by which scripts and libraries find torch's other processes: those of the group alone.

Trainers that find `RANK` and `WORLD_SIZE` make all workers one DistributedDataParallel, and Modum would average on top.
"""

import os
from collections.abc import Callable, Mapping
from typing import Final

from modum.cluster.environment import ClusterEnvironment

__all__ = ["TORCH_VARIABLES", "replace_torch_variables", "torch_variables"]

TORCH_VARIABLES: Final = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
    "TORCHELASTIC_RUN_ID",
    "TORCHELASTIC_USE_AGENT_STORE",
)


def torch_variables(place: ClusterEnvironment, master: tuple[str, int] | None) -> dict[str, str]:
    """Return torch's variables for a worker: its place in its group.

    `LOCAL_RANK` remains its number on the host, which is that of its GPU.

    Args:
        place: the worker's.
        master: where the group's first member will keep the store of torch.distributed, if anywhere.

    Returns:
        The variables; none for a group of one, which trains alone as far as torch is concerned, or without `master`.
    """
    if place.group_size == 1 or master is None:
        return {}
    return {
        "RANK": str(place.group_rank),
        "WORLD_SIZE": str(place.group_size),
        "LOCAL_RANK": str(place.local_rank),
        "MASTER_ADDR": master[0],
        "MASTER_PORT": str(master[1]),
    }


def replace_torch_variables(variables: Mapping[str, str]) -> Callable[[], None]:
    """Give this process these variables of torch's and no others.

    Args:
        variables: as `torch_variables` returns them.

    Returns:
        A function that restores what was there before.
    """
    before = {name: os.environ.get(name) for name in TORCH_VARIABLES}
    _set({name: variables.get(name) for name in TORCH_VARIABLES})
    return lambda: _set(before)


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
