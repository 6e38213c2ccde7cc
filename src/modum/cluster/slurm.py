"""Workers that Slurm's srun started."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, Self

from modum.cluster.by_hand import check_by_hand
from modum.cluster.environment import ClusterEnvironment, common_variables, host_group, integer_variable

if TYPE_CHECKING:
    from modum.cluster.rendezvous import LauncherRendezvous

__all__ = ["Slurm", "allotted_tasks", "first_host", "tasks_on"]

_HINT: Final = "start the workers with `srun -n 4 python train.py`, which sets it"
_FIRST_SPECIAL_STEP: Final = 0xFFFF_FFF0
"""Step ids from here on are not srun's: the batch script, the interactive shell of salloc."""


@dataclass(frozen=True, kw_only=True)
class Slurm(ClusterEnvironment):
    """Reads the variables that srun sets for each task of a step; workers meet at the step's first host."""

    name: ClassVar[str] = "srun"
    has_rendezvous: ClassVar[bool] = True

    step: str
    """`job.step`, which names the job within the cluster."""
    hosts: str
    """The step's hosts, in Slurm's list syntax."""

    @classmethod
    def detect(cls) -> bool:
        step = os.environ.get("SLURM_STEP_ID", "")
        return "SLURM_PROCID" in os.environ and step.isdigit() and int(step) < _FIRST_SPECIAL_STEP

    @classmethod
    def started(cls) -> int:
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
            world_size=cls.started(),
            local_rank=integer_variable("SLURM_LOCALID", _HINT),
            step=f"{os.environ.get('SLURM_JOB_ID')}.{os.environ['SLURM_STEP_ID']}",
            hosts=os.environ.get("SLURM_STEP_NODELIST", ""),
            **group,
            **common_variables(),
        )

    def own_variables(self) -> dict[str, str]:
        job, _, number = self.step.partition(".")
        tasks = self.group_size if self.group_is_host else self.world_size
        return {
            "SLURM_JOB_ID": job,
            "SLURM_STEP_ID": number,
            "SLURM_PROCID": str(self.rank),
            "SLURM_LOCALID": str(self.local_rank),
            "SLURM_NODEID": str(self.rank // tasks),
            "SLURM_STEP_NUM_TASKS": str(self.world_size),
            "SLURM_STEP_TASKS_PER_NODE": f"{tasks}(x{self.world_size // tasks})",
            "SLURM_STEP_NODELIST": self.hosts,
        }

    def check(self, outer: Sequence[type[ClusterEnvironment]]) -> None:
        check_by_hand(self)

    def rendezvous(self, timeout: float) -> "LauncherRendezvous":
        from modum.cluster.slurm_rendezvous import meet

        return meet(
            rank=self.rank,
            world_size=self.world_size,
            step=self.step,
            first_host=first_host(self.hosts),
            token=self.token,
            timeout=timeout,
        )


def allotted_tasks() -> int | None:
    """Return how many tasks Slurm allotted to this process, if srun did not start it; else None."""
    tasks = os.environ.get("SLURM_NTASKS", "")
    return int(tasks) if tasks.isdigit() and "SLURM_JOB_ID" in os.environ and not Slurm.detect() else None


def first_host(hosts: str) -> str:
    """Return the first host of a list such as `gpu[07-09,12],login1`: `gpu07`.

    Args:
        hosts: the list.

    Returns:
        The name of a host.

    Raises:
        ValueError: there is none.
    """
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", hosts)
    if first is None:
        raise ValueError(f"SLURM_STEP_NODELIST={hosts!r} names no host\nHINT: {_HINT}")
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first[0])


def tasks_on(tasks: str, node: int) -> int:
    """Return how many tasks run on a host, from a list such as `4(x2),3`: 4 on the first two, 3 on the third.

    Args:
        tasks: the list.
        node: number of the host, from 0.

    Returns:
        Number of tasks.

    Raises:
        ValueError: it is not such a list, or too short.
    """
    counts: list[int] = []
    for part in tasks.split(","):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if found is None:
            raise ValueError(f"SLURM_STEP_TASKS_PER_NODE={tasks!r} is no list of numbers\nHINT: {_HINT}")
        counts += [int(found[1])] * int(found[2] or 1)
    if node >= len(counts):
        raise ValueError(f"SLURM_NODEID={node}, but SLURM_STEP_TASKS_PER_NODE={tasks!r} has {len(counts)} hosts")
    return counts[node]
