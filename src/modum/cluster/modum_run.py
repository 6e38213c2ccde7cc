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
    """Reads the same variables, set by `modum run`."""

    name: ClassVar[str] = "modum run"

    @classmethod
    def detect(cls) -> bool:
        return os.environ.get(_VARIABLE) == _VALUE

    def own_variables(self) -> dict[str, str]:
        return {**super().own_variables(), _VARIABLE: _VALUE}
