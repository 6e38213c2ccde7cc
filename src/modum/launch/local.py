"""Workers of one machine: those that `modum run` starts, those started by hand, and a script started alone."""

import os
from dataclasses import dataclass
from typing import ClassVar, Self

from modum.launch.environment import ClusterEnvironment, common_variables, integer_variable

__all__ = ["LAUNCHER_VARIABLE", "MODUM_RUN", "ByHand", "ModumRun", "Single"]

LAUNCHER_VARIABLE = "MODUM_LAUNCHER"
MODUM_RUN = "modum run"
"""What `modum run` sets `LAUNCHER_VARIABLE` to: its workers inherit whatever an outer launcher has set."""


@dataclass(frozen=True, kw_only=True)
class ByHand(ClusterEnvironment):
    """RANK, WORLD_SIZE, LOCAL_RANK, MODUM_GROUP_SIZE and MODUM_BOX, set for each process by hand or by a script.

    That is how to go over several machines without a cluster manager, and what the training operators of
    Kubernetes do.
    """

    name: ClassVar[str] = "environment variables"

    @classmethod
    def detect(cls) -> bool:
        return "RANK" in os.environ or "WORLD_SIZE" in os.environ

    @classmethod
    def read(cls) -> Self:
        hint = "start the workers with `modum run -n 4 train.py`, or set RANK, WORLD_SIZE and LOCAL_RANK"
        return cls(
            rank=integer_variable("RANK", hint),
            world_size=integer_variable("WORLD_SIZE", hint),
            local_rank=integer_variable("LOCAL_RANK", hint),
            group_size=integer_variable("MODUM_GROUP_SIZE", "set it to the number of workers in a group", default=1),
            **common_variables(),
        )


@dataclass(frozen=True, kw_only=True)
class ModumRun(ByHand):
    """The same variables, set by `modum run`."""

    name: ClassVar[str] = MODUM_RUN

    @classmethod
    def detect(cls) -> bool:
        return os.environ.get(LAUNCHER_VARIABLE) == MODUM_RUN


@dataclass(frozen=True, kw_only=True)
class Single(ClusterEnvironment):
    """`python train.py`: one worker, alone, or with the box that MODUM_BOX names."""

    name: ClassVar[str] = "single"

    @classmethod
    def detect(cls) -> bool:
        return True

    @classmethod
    def read(cls) -> Self:
        return cls(rank=0, world_size=1, local_rank=0, **common_variables())
