"""Workers that `modum run` starts."""

import os
from dataclasses import dataclass
from typing import ClassVar

from modum.cluster.by_hand import ByHand

__all__ = ["LAUNCHER_VARIABLE", "MODUM_RUN", "ModumRun"]

LAUNCHER_VARIABLE = "MODUM_LAUNCHER"
MODUM_RUN = "modum run"
"""What `modum run` sets `LAUNCHER_VARIABLE` to: its workers inherit whatever an outer launcher has set."""


@dataclass(frozen=True, kw_only=True)
class ModumRun(ByHand):
    """The same variables, set by `modum run`."""

    name: ClassVar[str] = MODUM_RUN

    @classmethod
    def detect(cls) -> bool:
        return os.environ.get(LAUNCHER_VARIABLE) == MODUM_RUN
