"""A script that was started alone."""

from dataclasses import dataclass
from typing import ClassVar, Self

from modum.cluster.environment import ClusterEnvironment, common_variables

__all__ = ["Single"]


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

    def own_variables(self) -> dict[str, str]:
        return {}
