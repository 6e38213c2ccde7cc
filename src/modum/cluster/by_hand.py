"""Workers whose place is set in environment variables, by hand or by a script."""

import os
from dataclasses import dataclass
from typing import ClassVar, Final, Self

from modum.cluster.environment import GROUP_VARIABLE, ClusterEnvironment, common_variables, integer_variable

__all__ = ["ByHand", "check_by_hand"]

_HINT: Final = "start the workers with `modum run -n 4 train.py`, or set RANK, WORLD_SIZE and LOCAL_RANK"


@dataclass(frozen=True, kw_only=True)
class ByHand(ClusterEnvironment):
    """Reads RANK, WORLD_SIZE, LOCAL_RANK, MODUM_GROUP_SIZE and MODUM_BOX, set for each process by hand or by a script.

    Use it for several machines without a cluster manager; the training operators of Kubernetes
    do the same.
    """

    name: ClassVar[str] = "environment variables"
    numbers: ClassVar[tuple[str, str, str]] = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    """The variables that are read."""

    @classmethod
    def detect(cls) -> bool:
        return "RANK" in os.environ or "WORLD_SIZE" in os.environ

    @classmethod
    def read(cls) -> Self:
        rank, world_size, local_rank = (integer_variable(name, _HINT) for name in cls.numbers)
        return cls(
            rank=rank,
            world_size=world_size,
            local_rank=local_rank,
            group_size=integer_variable(GROUP_VARIABLE, "set it to the number of workers in a group", default=1),
            **common_variables(),
        )

    def own_variables(self) -> dict[str, str]:
        return dict(zip(self.numbers, _variables(self).values(), strict=True))


def check_by_hand(place: ClusterEnvironment) -> None:
    """Check that variables set by hand, or left over from another launcher, do not contradict `place`.

    Args:
        place: the place that another environment found.

    Raises:
        ValueError: RANK, WORLD_SIZE or LOCAL_RANK has another value.
    """
    ours = _variables(place)
    wrong = [name for name, value in ours.items() if os.environ.get(name, value) != value]
    if wrong:
        raise ValueError(
            f"{place.name} says {', '.join(f'{name}={ours[name]}' for name in wrong)}, but the environment says "
            f"{', '.join(f'{name}={os.environ[name]}' for name in wrong)}\n"
            f"HINT: unset {' '.join(wrong)} before {place.name}, or start the workers one way only"
        )


def _variables(place: ClusterEnvironment) -> dict[str, str]:
    return {"RANK": str(place.rank), "WORLD_SIZE": str(place.world_size), "LOCAL_RANK": str(place.local_rank)}
