"""Workers that `modum run` starts."""

import os
from dataclasses import dataclass
from typing import ClassVar, Final

from modum.cluster.by_hand import ByHand

__all__ = ["ModumRun"]

_VARIABLE: Final = "MODUM_LAUNCHER"
_VALUE: Final = "modum run"
"""The value that `modum run` sets: its workers also inherit an outer launcher's variables."""


@dataclass(frozen=True, kw_only=True)
class ModumRun(ByHand):
    """Reads MODUM_RANK, MODUM_WORLD_SIZE and MODUM_LOCAL_RANK, set by `modum run`: RANK and the like are torch's."""

    name: ClassVar[str] = "modum run"
    numbers: ClassVar[tuple[str, str, str]] = ("MODUM_RANK", "MODUM_WORLD_SIZE", "MODUM_LOCAL_RANK")

    @classmethod
    def detect(cls) -> bool:
        return os.environ.get(_VARIABLE) == _VALUE

    def own_variables(self) -> dict[str, str]:
        return {**super().own_variables(), _VARIABLE: _VALUE}
