"""A script that was started alone."""

import sys
from dataclasses import dataclass
from typing import ClassVar, Self

from modum.cluster.environment import ClusterEnvironment, common_variables
from modum.cluster.slurm import allotted_tasks

__all__ = ["Single"]


@dataclass(frozen=True, kw_only=True)
class Single(ClusterEnvironment):
    """`python train.py`: one worker, alone, or with the box that MODUM_BOX names."""

    name: ClassVar[str] = "single"
    checks_in: ClassVar[bool] = False  # several scripts may knowingly share a box

    @classmethod
    def detect(cls) -> bool:
        return True

    @classmethod
    def read(cls) -> Self:
        return cls(rank=0, world_size=1, local_rank=0, **common_variables())

    def own_variables(self) -> dict[str, str]:
        return {}

    def note(self) -> str:
        tasks = allotted_tasks()
        if tasks is None or tasks == 1:
            return ""
        return (
            f"modum: Slurm allotted {tasks} tasks, but srun did not start this process: it trains alone\n"
            f"HINT: srun -n {tasks} python {sys.argv[0]}"
        )
