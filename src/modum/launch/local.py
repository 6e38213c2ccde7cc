"""Workers of one machine: those that `modum run` starts, and a script that was started alone."""

import os
from dataclasses import dataclass
from typing import ClassVar, Self

from modum.launch.environment import ClusterEnvironment, box_variables, integer_variable

__all__ = ["ModumRun", "Single"]


@dataclass(frozen=True, kw_only=True)
class ModumRun(ClusterEnvironment):
    """The variables that `modum run` sets: RANK, WORLD_SIZE, LOCAL_RANK, MODUM_GROUP_SIZE, MODUM_BOX.

    They may as well be set by hand, one process each, which is how to go over several machines without a
    cluster manager.
    """

    name: ClassVar[str] = "modum run"

    @classmethod
    def detect(cls) -> bool:
        return "RANK" in os.environ or "WORLD_SIZE" in os.environ

    @classmethod
    def read(cls) -> Self:
        hint = "start the workers with `modum run -n 4 train.py`, or set RANK, WORLD_SIZE and LOCAL_RANK"
        servers, token = box_variables()
        return cls(
            rank=integer_variable("RANK", hint),
            world_size=integer_variable("WORLD_SIZE", hint),
            local_rank=integer_variable("LOCAL_RANK", hint),
            group_size=integer_variable("MODUM_GROUP_SIZE", "set it to the workers in a group", default=1),
            box_servers=servers,
            token=token,
        )


@dataclass(frozen=True, kw_only=True)
class Single(ClusterEnvironment):
    """`python train.py`: one worker, alone, or with the box that MODUM_BOX names."""

    name: ClassVar[str] = "single"

    @classmethod
    def detect(cls) -> bool:
        return True

    @classmethod
    def read(cls) -> Self:
        servers, token = box_variables()
        return cls(rank=0, world_size=1, local_rank=0, box_servers=servers, token=token)
