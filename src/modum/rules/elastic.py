"""Elastic averaging: the asynchronous rule of ShmCaffe (SEASGD), after Zhang et al. (2015)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from modum.box.compression import CompressionName, compression_of
from modum.box.kernels import factor_for, portable
from modum.rules.distance import ratio, sample
from modum.rules.rule import Auto, Leg, Part, UpdateRule, check_interval

if TYPE_CHECKING:
    from modum.box import Buffer
    from modum.parameters.vector import Vector

TOTAL = 3.2
"""With `"auto"`, all groups together move the shared weights by so many times the way (`beta` of EASGD, there 0.9)."""
AUTO_LIMIT = 0.5
"""The largest moving rate that `"auto"` chooses: local and shared weights meet in the middle."""

NUMBER = 4
"""Bytes of a weight that can be compressed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Elastic(UpdateRule):
    """SEASGD: every `interval` local steps `d = W - G; W -= b d; G += a d`.

    Reference: Zhang, Choromanska, LeCun, "Deep learning with Elastic Averaging SGD" (NIPS 2015), equations 5 and 6 in
    their asynchronous form (algorithm 1), where `b = a`. With many workers `a` is small, and a worker that goes back
    only so little goes far away between the others' exchanges: averages of weights that are far apart are worse.

    Attributes:
        moving_rate: `a`, greater than 0 and at most 1. `"auto"`: `3.2 / p` with `p` the number of live groups, counted
            anew with every exchange, and never above 0.5.
        pull: `b`, greater than 0 and at most 1. `"auto"`: `a` if that is a number, and else `1 - a`: the worker takes
            the shared weights as the exchange leaves them. Statistics (of batch normalization, say) move by `a`.
        interval: local steps between exchanges. `"auto"`: the fewest that hide an exchange under compute, measured
            at run time. Give a number when `statistics().put_off` keeps growing.
        overlap: True: the exchange runs in the background on a snapshot of `W`, and `d` is subtracted when it arrives;
            compute never waits for the wire. False: the worker waits, and every step follows the equations exactly.
        compression: how float32 weights cross the network: see `modum.box.Buffer.exchange`. Take "int8" where
            `statistics().interval` is longer than you want because the network is full: it carries 2.6 times as many
            exchanges, "bfloat16" twice as many. Statistics (of batch normalization, say) travel as they are, in an
            operation of their own.

    Raises:
        ValueError: a setting is out of its range.
    """

    name: ClassVar[str] = "elastic"
    moving_rate: float | Auto = "auto"
    pull: float | Auto = "auto"
    interval: int | Auto = "auto"
    overlap: bool = True
    compression: CompressionName = "none"

    def __post_init__(self) -> None:
        for name, value in (("moving_rate", self.moving_rate), ("pull", self.pull)):
            if value != "auto" and not 0 < value <= 1:
                raise ValueError(f'{name} ({value}) must be greater than 0 and at most 1, or "auto"')
        check_interval(self.interval)
        compression_of(self.compression)

    def rate(self, groups: int) -> float:
        """Return the moving rate of an exchange while `groups` groups are alive."""
        if self.moving_rate == "auto":
            return min(AUTO_LIMIT, TOTAL / max(1, groups))
        return self.moving_rate

    def pulls(self, rate: float, steps: int) -> float:
        """Return how far the worker goes in an exchange with the moving rate `rate`, `steps` after the one before."""
        if self.pull == "auto":
            return 1 - rate if self.moving_rate == "auto" else rate
        return self.pull

    def part(self, vector: Vector, buffer: Buffer) -> Part:
        return ElasticPart(self, vector, buffer)

    def traffic(self, nbytes: int) -> tuple[Leg, ...]:
        chosen = compression_of(self.compression)
        if chosen is None:
            return (Leg(nbytes, nbytes),)
        count = -(-nbytes // NUMBER)
        return (Leg(chosen.sent(count), chosen.answered(count)),)


class ElasticPart(Part):
    """Keeps no state: it exchanges the snapshot.

    Args:
        rule: what to do.
        vector: the worker's weights.
        buffer: the shared weights.

    Raises:
        ValueError: the rule compresses, and the weights are not float32.
    """

    def __init__(self, rule: Elastic, vector: Vector, buffer: Buffer) -> None:
        super().__init__(vector, buffer)
        if rule.compression != "none" and vector.dtype != "float32":
            raise ValueError(
                f"compression ({rule.compression!r}) is for float32 weights, and these are {vector.dtype}:"
                ' set it to "none", or keep the weights in float32'
            )
        self.rule = rule

    def transfer(self, groups: int, steps: int) -> float:
        rate = self.rule.rate(groups)
        self.vector.arrived()
        self.exchange(rate, self.rule.pulls(rate, steps))
        return rate

    def exchange(self, rate: float, pull: float, start: int = 0) -> None:
        """Exchange the snapshot from element `start` on, and leave the corrections in its place."""
        vector, compression = self.vector, self.rule.compression
        end = vector.staging.size
        seen = vector.staging[: self.learning] if start == 0 else vector.staging[:0]
        before = sample(seen)
        # a scale is shared by neighbours: a count of batches among means and variances would spoil them
        border = end if compression == "none" else max(start, self.learning)
        for low, high, how in ((start, border, compression), (border, end, "none")):
            if low < high:
                self.buffer.exchange(
                    vector.staging[low:high], rate, offset=vector.offset + low, leave="difference", compression=how
                )
        if seen.size:
            self.apart = ratio(sample(seen), before) / rate
            if pull != rate:
                portable.scale(vector.dtype, seen, seen, factor_for(vector.dtype, pull / rate))
