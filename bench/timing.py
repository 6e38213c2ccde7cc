"""Timing: the sides of a comparison take turns."""

import statistics
import time
from collections.abc import Callable, Mapping

WARM_UP = 2
"""Rounds that are run and not counted: compilation, first touch of memory, growing socket buffers."""


def timed(act: Callable[[], object]) -> Callable[[], float]:
    """A side: runs `act` and returns how long it took, in seconds."""

    def run() -> float:
        start = time.perf_counter()
        act()
        return time.perf_counter() - start

    return run


def take_turns(sides: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Run every side once a round; the seconds that each returned, without the warm-up."""
    samples: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(WARM_UP + rounds):
        for name, run in sides.items():
            seconds = run()
            if turn >= WARM_UP:
                samples[name].append(seconds)
    return samples


def median(samples: list[float]) -> float:
    """The middle one, in seconds."""
    return statistics.median(samples)


def milliseconds(samples: list[float]) -> str:
    """The median and the best, for a row's detail."""
    return f"{median(samples) * 1e3:.1f} ms (best {min(samples) * 1e3:.1f})"
