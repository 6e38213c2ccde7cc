"""Elastic averaging with drift: each worker also follows the movement of the shared weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from modum.box.kernels import factor_for, portable
from modum.rules.distance import ratio, sample
from modum.rules.elastic import Elastic, ElasticPart
from modum.rules.rule import Auto, Part

if TYPE_CHECKING:
    from collections.abc import Mapping

    from modum.box import Buffer
    from modum.parameters.vector import Vector

RESPONSE = 1.6
"""Times `1 / (1 - momentum)`: local steps in which an optimizer has answered to a push."""
SHORTEST = 4
"""Local steps that the answer takes without any momentum."""
OFTEN = 4
"""Exchanges within that time above which it takes twice as long: each exchange holds the worker back."""

SELDOM_PULL = 0.5
"""How far a worker goes where exchanges are fewer."""

PIECE = 1 << 20
"""Elements that are exchanged at a time when the shared weights are followed: a copy of them is kept meanwhile."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Drift(Elastic):
    """Elastic averaging with drift: `d = W - G; W -= b d; G += a d`, and now and then `W += k (G - B); B = G`.

    `B` is the shared weights when this worker followed them last, and `k = 1 + b/(a p) - 1/sqrt(p)` for p groups. Where
    the loss is flat, p elastic workers make the shared weights advance `1 / (1 + b/(a p))` times as fast as one worker
    alone. If every worker moves with them too, they advance `1 / (1 + b/(a p) - k)` times as fast: sqrt(p) times, as
    with the learning rate that a batch p times as large calls for. Where the loss is steep, local steps undo the drift
    before it is passed on.

    Reference for the elastic part: see `Elastic`. To follow the shared movement is akin to the server's momentum inside
    local steps (FedCM: Xu, Wang, Wang, Yao 2021, arXiv 2106.10874), with elastic coupling in place of a reset.

    Attributes:
        moving_rate: `a`, as in `Elastic`.
        pull: `b`, as in `Elastic`; but `"auto"` is 0.5 for exchanges that are so far apart that a drift comes with
            fewer than 4 of them: to go all the way and then as far as the others went would overshoot.
        interval: as in `Elastic`.
        overlap: as in `Elastic`; the drift is applied with `d`.
        compression: as in `Elastic`.
        momentum: of the workers' optimizer, from 0 to less than 1. `"auto"` horizons follow from it.
        horizon: local steps after which the shared weights are followed, with the next exchange. The optimizer must
            have answered to the last drift by then: where it has not, the workers diverge. `"auto"`:
            `1.6 / (1 - momentum)`, at least 4, and twice that while there are more than 4 exchanges in that time; so
            16 with a momentum of 0.9, and 32 while exchanges are fewer than 4 steps apart.

    Raises:
        ValueError: a setting is out of its range.
    """

    name: ClassVar[str] = "drift"
    momentum: float = 0.9
    horizon: int | Auto = "auto"

    def __post_init__(self) -> None:
        Elastic.__post_init__(self)
        if self.horizon != "auto" and self.horizon < 1:
            raise ValueError(f'horizon ({self.horizon!r}) must be a whole number of steps, at least 1, or "auto"')
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum ({self.momentum}) must be at least 0 and less than 1")

    def follows_after(self, steps: int) -> int:
        """Return the local steps after which the shared weights are followed, where exchanges are `steps` apart."""
        if self.horizon != "auto":
            return self.horizon
        return 2 * self._answered if self._often(steps) else self._answered

    def pulls(self, rate: float, steps: int) -> float:
        if self.pull == "auto" == self.moving_rate and not self._often(steps):
            return SELDOM_PULL
        return Elastic.pulls(self, rate, steps)

    @property
    def _answered(self) -> int:
        """Local steps in which the optimizer has answered."""
        return max(SHORTEST, math.ceil(RESPONSE / (1 - self.momentum) - 1e-9))

    def _often(self, steps: int) -> bool:
        return OFTEN * steps < self._answered

    def part(self, vector: Vector, buffer: Buffer) -> Part:
        return _Following(self, vector, buffer)

    def memory(self, nbytes: int) -> int:
        return nbytes


def drift(groups: int, rate: float, pull: float) -> float:
    """Return how far a worker goes with the shared weights: `1 + b/(a p) - 1/sqrt(p)`, at most 1, and 0 alone."""
    return min(1.0, 1 + pull / (rate * groups) - 1 / math.sqrt(groups)) if groups > 1 else 0.0


class _Following(ElasticPart):
    """The shared weights when this worker followed them last, and its steps since."""

    def __init__(self, rule: Drift, vector: Vector, buffer: Buffer) -> None:
        super().__init__(rule, vector, buffer)
        self._follows_after = rule.follows_after
        self._base = np.empty(self.learning, vector.staging.dtype)
        self._steps = 0

    def pulled(self) -> None:
        self.vector.snapshot()
        self.vector.arrived()
        self._base[:] = self.vector.staging[: self.learning]
        self._steps = 0

    def state(self) -> dict[str, Any]:
        return {"base": self._base.copy(), "steps": self._steps}

    def load(self, state: Mapping[str, Any]) -> None:
        self._base[:] = state["base"]
        self._steps = int(state["steps"])

    def transfer(self, groups: int, steps: int) -> float:
        vector, rate = self.vector, self.rule.rate(groups)
        pull = self.rule.pulls(rate, steps)
        vector.arrived()
        self._steps += steps
        followed = 0
        if self._steps >= self._follows_after(steps):
            self._steps = 0
            followed = self.learning
            for start in range(0, followed, PIECE):
                self._follow(start, min(start + PIECE, followed), rate, pull, drift(groups, rate, pull))
        self.exchange(rate, pull, followed)
        return rate

    def _follow(self, start: int, end: int, rate: float, pull: float, drift: float) -> None:
        """Exchange some elements, and leave b (W - G) - k (G - B) as their correction."""
        dtype = self.vector.dtype
        shared, base = self.vector.staging[start:end], self._base[start:end]
        correction = shared.copy()
        offset, compression = self.vector.offset + start, self.rule.compression
        self.buffer.exchange(shared, rate, offset=offset, leave="present", compression=compression)
        portable.subtract(dtype, correction, shared)
        if start == 0:
            self.apart = ratio(sample(correction), sample(shared))
        portable.scale(dtype, correction, correction, factor_for(dtype, pull))
        portable.subtract(dtype, base, shared)
        portable.add(dtype, correction, base, factor_for(dtype, drift))
        base[:] = shared
        shared[:] = correction
