"""Workers that Slurm's srun started."""

import os
import re
from dataclasses import dataclass
from typing import ClassVar, Self

from modum.cluster.environment import ClusterEnvironment, common_variables, host_group, integer_variable
from modum.cluster.rendezvous import Rendezvous

__all__ = ["Slurm", "allotted_tasks", "first_host", "tasks_on"]

_HINT = "start the workers with `srun -n 4 python train.py`, which sets it"
_FIRST_SPECIAL_STEP = 0xFFFF_FFF0
"""Step ids from here on are no steps that srun made: the batch script, the interactive shell of salloc."""


@dataclass(frozen=True, kw_only=True)
class Slurm(ClusterEnvironment):
    """The variables that srun sets for each task of a step; workers meet at the step's first host."""

    name: ClassVar[str] = "srun"
    meets: ClassVar[bool] = True

    step: str
    """`job.step`, which names the job within the cluster."""
    hosts: str
    """The step's hosts, as Slurm writes such lists."""

    @classmethod
    def detect(cls) -> bool:
        step = os.environ.get("SLURM_STEP_ID", "")
        return "SLURM_PROCID" in os.environ and step.isdigit() and int(step) < _FIRST_SPECIAL_STEP

    @classmethod
    def processes(cls) -> int:
        """How many tasks srun started."""
        return integer_variable("SLURM_STEP_NUM_TASKS", _HINT)

    @classmethod
    def read(cls) -> Self:
        tasks = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")
        group = host_group(tasks_on(tasks, integer_variable("SLURM_NODEID", _HINT)))
        if group["group_is_host"] and "," in tasks:
            raise ValueError(
                f"the hosts of this step have different numbers of tasks ({tasks}), so the host cannot be the group\n"
                "HINT: export MODUM_GROUP_SIZE=1, or a number of workers that fits, or use srun --ntasks-per-node"
            )
        return cls(
            rank=integer_variable("SLURM_PROCID", _HINT),
            world_size=cls.processes(),
            local_rank=integer_variable("SLURM_LOCALID", _HINT),
            step=f"{os.environ.get('SLURM_JOB_ID')}.{os.environ['SLURM_STEP_ID']}",
            hosts=os.environ.get("SLURM_STEP_NODELIST", ""),
            **group,
            **common_variables(),
        )

    def meeting(self, seconds: float) -> Rendezvous:
        from modum.cluster.slurm_rendezvous import meet

        return meet(self, seconds)


def allotted_tasks() -> int | None:
    """How many tasks Slurm allotted to this process, which srun did not start; None if it did, or without Slurm."""
    tasks = os.environ.get("SLURM_NTASKS", "")
    return int(tasks) if tasks.isdigit() and "SLURM_JOB_ID" in os.environ and not Slurm.detect() else None


def first_host(hosts: str) -> str:
    """The first of a list such as ``gpu[07-09,12],login1``: ``gpu07``."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", hosts)
    if first is None:
        raise ValueError(f"SLURM_STEP_NODELIST={hosts!r} names no host\nHINT: {_HINT}")
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first[0])


def tasks_on(tasks: str, node: int) -> int:
    """How many tasks run on the `node`-th host, by a list such as ``4(x2),3``: 4 on the first two, 3 on the third."""
    counts: list[int] = []
    for part in tasks.split(","):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if found is None:
            raise ValueError(f"SLURM_STEP_TASKS_PER_NODE={tasks!r} is no list of numbers\nHINT: {_HINT}")
        counts += [int(found[1])] * int(found[2] or 1)
    if node >= len(counts):
        raise ValueError(f"SLURM_NODEID={node}, but SLURM_STEP_TASKS_PER_NODE={tasks!r} has {len(counts)} hosts")
    return counts[node]
