"""Choose cuts that divide the layers' times and parameters evenly, by dynamic programming."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

__all__ = ["Layer", "balance"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """The cost of a layer."""

    name: str
    seconds: float
    """Seconds of the forward and backward pass of one batch."""
    nbytes: int
    """Bytes of its parameters."""


def balance(layers: Sequence[Layer], stages: int, *, forbidden: Collection[int] = (), slack: float = 0.1) -> list[int]:
    """Choose where to cut a model into stages.

    The slowest stage sets the pace of a pipeline, so its time is minimized. Among the cuts whose slowest stage takes at
    most `slack` (a fraction) longer, it chooses those whose worker with the most memory needs the least: stage s of S
    keeps up to S - s versions of its parameters. Stages without parameters are avoided unless all such cuts have one.

    Args:
        layers: the layers, in the order of computation.
        stages: number of stages, at least 1.
        forbidden: numbers of layers before which no cut may lie.
        slack: fraction by which the slowest stage may be slower than the best, to save memory.

    Returns:
        The numbers of the first layers of stages 1, 2, ...: increasing, between 1 and `len(layers) - 1`.

    Raises:
        ValueError: there are fewer places to cut than `stages - 1`.
    """
    seconds = _sums([layer.seconds for layer in layers])
    nbytes = _sums([float(layer.nbytes) for layer in layers])
    fastest, cuts = _best(len(layers), stages, forbidden, lambda stage, lo, hi: seconds[hi] - seconds[lo])
    most = fastest * (1 + slack)

    def memory(stage: int, lo: int, hi: int) -> float:
        own = nbytes[hi] - nbytes[lo]
        return math.inf if seconds[hi] - seconds[lo] > most or not own else own * (stages - stage)

    least, leanest = _best(len(layers), stages, forbidden, memory)
    return cuts if math.isinf(least) else leanest


def _sums(values: Sequence[float]) -> list[float]:
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    return sums


def _best(
    layers: int, stages: int, forbidden: Collection[int], cost: Callable[[int, int, int], float]
) -> tuple[float, list[int]]:
    """Return the cuts with the smallest largest `cost(stage, lo, hi)`, and among equals the smallest sum of squares."""
    allowed = [cut for cut in range(1, layers) if cut not in forbidden]
    if len(allowed) < stages - 1:
        raise ValueError(f"{stages} stages need {stages - 1} cuts, but there are only {len(allowed)} places for one")
    ends = [*allowed, layers]
    # best[end]: (largest cost, sum of squares, cuts) of the layers before `end` in the stages so far
    best: dict[int, tuple[float, float, list[int]]] = {0: (0.0, 0.0, [])}
    for stage in range(stages):
        following: dict[int, tuple[float, float, list[int]]] = {}
        for end in ends:
            found = []
            for start, (largest, squares, cuts) in best.items():
                if start < end:
                    own = cost(stage, start, end)
                    found.append((max(largest, own), squares + own * own, [*cuts, start] if start else cuts))
            if found:
                following[end] = min(found)
        best = following
    largest, _, cuts = best[layers]
    return largest, cuts
