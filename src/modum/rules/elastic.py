"""Elastic averaging: the asynchronous rule of ShmCaffe (SEASGD), after Zhang et al. (2015)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from modum.rules.distance import ratio, sample
from modum.rules.rule import Auto, Leg, Part, UpdateRule, check_interval

if TYPE_CHECKING:
    from modum.box import Buffer
    from modum.parameters.vector import Vector

TOTAL = 3.2
"""With `"auto"`, all groups together move the shared weights by so many times the way (`beta` of EASGD, there 0.9)."""
AUTO_LIMIT = 0.5
"""The largest moving rate that `"auto"` chooses: local and shared weights meet in the middle."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Elastic(UpdateRule):
    """SEASGD: every `interval` local steps `d = a (W - G); W -= d; G += d`.

    Reference: Zhang, Choromanska, LeCun, "Deep learning with Elastic Averaging SGD" (NIPS 2015), equations 5 and 6 in
    their asynchronous form (algorithm 1).

    Attributes:
        moving_rate: `a`, greater than 0 and at most 1. `"auto"`: `3.2 / p` with `p` the number of live groups, counted
            anew with every exchange, and never above 0.5.
        interval: local steps between exchanges. `"auto"`: the fewest that hide an exchange under compute, measured
            at run time. Give a number when `statistics().put_off` keeps growing.
        overlap: True: the exchange runs in the background on a snapshot of `W`, and `d` is subtracted when it arrives;
            compute never waits for the wire. False: the worker waits, and every step follows the equations exactly.

    Raises:
        ValueError: a setting is out of its range.
    """

    name: ClassVar[str] = "elastic"
    moving_rate: float | Auto = "auto"
    interval: int | Auto = "auto"
    overlap: bool = True

    def __post_init__(self) -> None:
        if self.moving_rate != "auto" and not 0 < self.moving_rate <= 1:
            raise ValueError(f'moving_rate ({self.moving_rate}) must be greater than 0 and at most 1, or "auto"')
        check_interval(self.interval)

    def rate(self, groups: int) -> float:
        """Return the moving rate of an exchange while `groups` groups are alive."""
        if self.moving_rate == "auto":
            return min(AUTO_LIMIT, TOTAL / max(1, groups))
        return self.moving_rate

    def part(self, vector: Vector, buffer: Buffer) -> Part:
        return _Exchanged(self, vector, buffer)

    def traffic(self, nbytes: int) -> tuple[Leg, ...]:
        return (Leg(nbytes, nbytes),)


class _Exchanged(Part):
    """Keeps no state: it exchanges the snapshot."""

    def __init__(self, rule: Elastic, vector: Vector, buffer: Buffer) -> None:
        super().__init__(vector, buffer)
        self._rule = rule

    def transfer(self, groups: int, steps: int) -> float:
        vector, rate = self.vector, self._rule.rate(groups)
        vector.arrived()
        if vector.staging.size:
            before = sample(vector.staging)
            self.buffer.exchange(vector.staging, rate, offset=vector.offset, leave="difference")
            self.apart = ratio(sample(vector.staging), before) / rate
        return rate
