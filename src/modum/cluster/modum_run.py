"""Workers that `modum run` starts."""

import os
from dataclasses import dataclass, replace
from typing import ClassVar, Final, Self

from modum.cluster.by_hand import ByHand
from modum.cluster.environment import integer_variable

__all__ = ["ModumRun"]

_VARIABLE: Final = "MODUM_LAUNCHER"
_LAUNCHED: Final = "MODUM_LAUNCHED"
_VALUE: Final = "modum run"
"""The value that `modum run` sets: its workers also inherit an outer launcher's variables."""


_HINT: Final = "start the worker with `modum join`, which sets it"


@dataclass(frozen=True, kw_only=True)
class ModumRun(ByHand):
    """Reads MODUM_RANK, MODUM_WORLD_SIZE and MODUM_LOCAL_RANK, set by `modum run`: RANK and the like are torch's."""

    name: ClassVar[str] = "modum run"
    numbers: ClassVar[tuple[str, str, str]] = ("MODUM_RANK", "MODUM_WORLD_SIZE", "MODUM_LOCAL_RANK")

    @classmethod
    def detect(cls) -> bool:
        return os.environ.get(_VARIABLE) == _VALUE

    @classmethod
    def read(cls) -> Self:
        place = super().read()
        return replace(place, launched=integer_variable(_LAUNCHED, _HINT)) if os.environ.get(_LAUNCHED) else place

    def own_variables(self) -> dict[str, str]:
        launched = "" if self.launched is None else str(self.launched)
        return {**super().own_variables(), _VARIABLE: _VALUE, _LAUNCHED: launched}
