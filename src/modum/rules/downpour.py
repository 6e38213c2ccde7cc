"""Downpour: every worker adds its updates to the shared weights, and takes them (Dean et al. 2012)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from modum.box.kernels import portable
from modum.rules.rule import Auto, Leg, Part, UpdateRule, check_interval

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from modum.box import Buffer
    from modum.parameters.vector import Vector

STATISTICS_RATE = 0.5
"""Statistics are mixed, not summed: the sum of several workers' changes could make a variance negative."""

PIECE = 1 << 20
"""Elements to subtract at a time: bfloat16 needs four times as much memory meanwhile."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Downpour(UpdateRule):
    """Downpour: every `interval` local steps `u = W - B; G += u; B = G; W = G`.

    `B` is the shared weights that this worker took last, so `u` is the sum of the updates that its optimizer has made
    since. Only taking `G` pulls workers together; all updates of all workers are applied in full, and p workers
    move `G` about p times as far as one does. If that is too far, lower the learning rate.

    References: Dean et al., "Large Scale Distributed Deep Networks" (NIPS 2012), section 4.1, with the local
    optimizer's updates in place of gradients; for `staleness`: Zhang, Gupta, Lian, Liu, "Staleness-aware Async-SGD for
    Distributed Deep Learning" (IJCAI 2016), equation 4.

    Attributes:
        interval: local steps between exchanges. `"auto"`: the fewest that hide an exchange under compute.
        overlap: False: the worker waits, then continues from `G`. True: the exchange runs in the background on a copy
            `S` of `W`: `u = S - B; G += u; B = G`; when it is over, `W += B - S`. The steps done meanwhile,
            `W - S`, stay in `W` on top of the shared weights, and are part of the next `u`: none is lost and none is
            added twice.
        staleness: None: `u` is added in full. `"divide"`: it is divided by its staleness, the number of updates by
            other groups that `G` received after this group took it and before it adds (1 if there were fewer). The rest
            of `u` is dropped: the worker continues from `G`.

    Raises:
        ValueError: a setting is out of its range.
    """

    name: ClassVar[str] = "downpour"

    interval: int | Auto = "auto"
    overlap: bool = True
    staleness: Literal["divide"] | None = None

    def __post_init__(self) -> None:
        check_interval(self.interval)
        if self.staleness not in (None, "divide"):
            raise ValueError(f'staleness ({self.staleness!r}) must be None or "divide"')

    def part(self, vector: Vector, buffer: Buffer) -> Part:
        return _Accumulated(self, vector, buffer)

    def traffic(self, nbytes: int) -> tuple[Leg, ...]:
        return Leg(nbytes, 0), Leg(0, nbytes)

    def memory(self, nbytes: int) -> int:
        return nbytes


class _Accumulated(Part):
    """The shared weights that this worker took last, and how old they are."""

    def __init__(self, rule: Downpour, vector: Vector, buffer: Buffer) -> None:
        super().__init__(vector, buffer)
        self._divide = rule.staleness == "divide"
        self._base = np.empty(self.learning, vector.staging.dtype)
        self._update = sum(map(self._operations, vector.bounds, vector.bounds[1:]))
        self._mates = self._update - self._operations(vector.offset, vector.offset + vector.staging.size)
        self._version = 0

    def pulled(self) -> None:
        self.vector.snapshot()
        self.vector.arrived()
        self._base[:] = self.vector.staging[: self.learning]
        self._version = self.buffer.version

    def state(self) -> dict[str, Any]:
        return {"base": self._base.copy(), "behind": self.buffer.version - self._version}

    def load(self, state: Mapping[str, Any]) -> None:
        self._base[:] = state["base"]
        self._version = self.buffer.version - int(state["behind"])

    def transfer(self, groups: int, steps: int) -> float:
        vector, buffer = self.vector, self.buffer
        vector.arrived()
        x, statistics = vector.staging[: self.learning], vector.staging[self.learning :]
        if x.size:
            _subtract(vector.dtype, self._base, x)  # -u
            buffer.add(self._base, -1 / self._staleness(), offset=vector.offset)
            self._version = buffer.version
            buffer.read(self._base, offset=vector.offset)
            _subtract(vector.dtype, x, self._base)
        if statistics.size:
            buffer.exchange(statistics, STATISTICS_RATE, offset=vector.offset + self.learning, leave="difference")
            self._version += 1
        return STATISTICS_RATE

    def _operations(self, low: int, high: int) -> int:
        """Return how many buffer operations the member with elements `low` to `high` does in one update."""
        return (low < min(high, self.vector.trainable)) + (max(low, self.vector.trainable) < high)

    def _staleness(self) -> float:
        """Return the updates by other groups since `_version`, at least 1.

        In a group of several it is off by less than 1: the other members have usually, but not always, done one update
        of their own in between.
        """
        if not self._divide:
            return 1.0
        return max(1.0, (self.buffer.version - self._version - self._mates) / self._update)


def _subtract(dtype: str, x: NDArray[np.generic], y: NDArray[np.generic]) -> None:
    """Subtract `y` from `x` in place."""
    for start in range(0, x.size, PIECE):
        portable.subtract(dtype, x[start : start + PIECE], y[start : start + PIECE])
