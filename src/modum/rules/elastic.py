"""Elastic averaging: the asynchronous rule of ShmCaffe (SEASGD), after Zhang et al. (2015)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from modum.rules.rule import Part, UpdateRule

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from modum.box import Buffer
    from modum.parameters.vector import Vector
    from modum.rules.rule import Auto

AUTO_TOTAL = 0.9
"""All groups together move the shared weights by this share of the way (``beta`` of EASGD)."""

AUTO_LIMIT = 0.5
"""The largest moving rate that ``"auto"`` chooses: local and shared weights meet in the middle."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Elastic(UpdateRule):
    """SEASGD: every ``interval`` local steps ``d = a (W - G); W -= d; G += d``.

    Reference: Zhang, Choromanska, LeCun, "Deep learning with Elastic Averaging SGD" (NIPS 2015), equations 5
    and 6 in their asynchronous form (algorithm 1).

    moving_rate
        ``a``, greater than 0 and at most 1. ``"auto"``: ``0.9 / p`` with ``p`` the number of groups alive,
        counted anew with every exchange, and never above 0.5.
    interval
        Local steps between exchanges. ``"auto"``: the fewest at which an exchange hides under compute,
        measured as it runs. Give a number when ``statistics().put_off`` keeps growing.
    overlap
        ``True``: the exchange runs in the background on a snapshot of ``W`` and ``d`` is subtracted when it
        arrives; compute never waits for the wire. ``False``: the worker waits, and every step follows the
        equations exactly.
    """

    moving_rate: float | Auto = "auto"
    interval: int | Auto = "auto"
    overlap: bool = True

    def __post_init__(self) -> None:
        if self.moving_rate != "auto" and not 0 < self.moving_rate <= 1:
            raise ValueError(f'moving_rate ({self.moving_rate}) must be greater than 0 and at most 1, or "auto"')
        if self.interval != "auto" and self.interval < 1:
            raise ValueError(f'interval ({self.interval!r}) must be a whole number of steps, at least 1, or "auto"')

    def settings(self) -> dict[str, Any]:
        return {"rule": "elastic", **asdict(self)}

    def rate(self, groups: int) -> float:
        if self.moving_rate == "auto":
            return min(AUTO_LIMIT, AUTO_TOTAL / max(1, groups))
        return self.moving_rate

    def part(self, vector: Vector, buffer: Buffer) -> Part:
        return _Exchanged(self, vector, buffer)

    def transfer(self, buffer: Buffer, x: NDArray[np.generic], *, offset: int, rate: float) -> None:
        """Exchange ``x``, a snapshot of ``W[offset : offset + x.size]``, and leave ``d`` in it."""
        buffer.exchange(x, rate, offset=offset, difference=True)


class _Exchanged(Part):
    """Remembers nothing: the snapshot is exchanged."""

    def __init__(self, rule: Elastic, vector: Vector, buffer: Buffer) -> None:
        super().__init__(vector, buffer)
        self._rule = rule

    def transfer(self, rate: float) -> None:
        vector = self.vector
        vector.arrived()
        if vector.staging.size:
            self._rule.transfer(self.buffer, vector.staging, offset=vector.offset, rate=rate)
