"""Scale the learning rate with the number of groups."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class LearningRateScale:
    """A factor on the learning rate.

    Elastic averaging by p groups advances like a batch p times larger, and larger batches allow larger steps.

    Attributes:
        scale: None: always 1. `"linear"`: the number of live groups (Goyal et al. 2017). `"sqrt"`: its square root. A
            number: that factor.
        warmup_steps: local steps over which the factor grows linearly from 1 to its value.

    Raises:
        ValueError: a setting is out of its range.
    """

    scale: Literal["linear", "sqrt"] | float | None = None
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.scale, str):
            if self.scale not in ("linear", "sqrt"):
                raise ValueError(f'learning_rate_scale ({self.scale!r}) must be None, "linear", "sqrt", or a number')
        elif self.scale is not None and self.scale <= 0:
            raise ValueError(f"learning_rate_scale ({self.scale}) must be greater than 0")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps ({self.warmup_steps}) must be at least 0")

    @property
    def text(self) -> str:
        """The factor in words."""
        if self.scale is None:
            return "x 1"
        times = {"linear": "groups", "sqrt": "sqrt(groups)"}.get(str(self.scale), str(self.scale))
        return f"x {times}" + (f", over {self.warmup_steps} steps" if self.warmup_steps else "")

    def factor(self, step: int, groups: int) -> float:
        """Return the factor for local step `step` (from 0) while `groups` groups are alive."""
        if self.scale is None:
            return 1.0
        followed = {"linear": float(groups), "sqrt": math.sqrt(groups)}
        full = followed[self.scale] if isinstance(self.scale, str) else float(self.scale)
        progress = 1.0 if step >= self.warmup_steps else step / self.warmup_steps
        return 1.0 + (full - 1.0) * progress
