"""Workers that were told their place by environment variables, set by hand or by a script."""

import os
from dataclasses import dataclass
from typing import ClassVar, Self

from modum.cluster.environment import ClusterEnvironment, common_variables, integer_variable

__all__ = ["ByHand"]


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
