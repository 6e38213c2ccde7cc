"""Timing: the sides of a comparison take turns, and rounds that others disturbed are repeated."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bench.machine import OtherLoad

WARM_UP = 2
"""Rounds that are run and not counted: compilation, first touch of memory, growing socket buffers."""
QUIET = 0.1
"""A block of rounds counts as quiet if other processes took at most this part of all cores."""
TIMEOUT = 10.0
"""Seconds for a comparison, after which rounds count that were not quiet."""
_BLOCK_SECONDS = 0.15  # the kernel tells the load in steps of 10 ms
_PAUSE = 0.1  # seconds for the others to go on


@dataclass(frozen=True, slots=True)
class Turns:
    """The seconds of every counted round, by side; whether all of them were quiet."""

    samples: dict[str, list[float]]
    quiet: bool

    def median(self, side: str) -> float:
        """Seconds."""
        return statistics.median(self.samples[side])

    def ratio(self, side: str, other: str) -> float:
        """Median over median."""
        return self.median(side) / self.median(other)

    def milliseconds(self, side: str) -> str:
        """The median and the best, for a row's detail."""
        return f"{self.median(side) * 1e3:.1f} ms (best {min(self.samples[side]) * 1e3:.1f})"


def timed(act: Callable[[], object]) -> Callable[[], float]:
    """A side: runs `act` and returns how long it took, in seconds."""

    def run() -> float:
        start = time.perf_counter()
        act()
        return time.perf_counter() - start

    return run


def take_turns(
    sides: Mapping[str, Callable[[], float]],
    rounds: int,
    *,
    watch: Callable[[], OtherLoad] = OtherLoad,
    timeout: float = TIMEOUT,
) -> Turns:
    """Run every side once a round, until enough rounds were quiet.

    Args:
        sides: what is compared; each returns seconds.
        rounds: how many are to count.
        watch: starts to look at what other processes take.
        timeout: seconds after which rounds count that were not quiet.
    """

    def turn() -> dict[str, float]:
        return {name: run() for name, run in sides.items()}

    for _ in range(WARM_UP):
        turn()
    quiet: list[dict[str, float]] = []
    disturbed: list[dict[str, float]] = []
    deadline = time.monotonic() + timeout
    while len(quiet) < rounds and (time.monotonic() < deadline or len(quiet) + len(disturbed) < rounds):
        load = watch()
        end = time.monotonic() + _BLOCK_SECONDS
        block = [turn()]
        while len(quiet) + len(block) < rounds and time.monotonic() < end:
            block.append(turn())
        if load.share() <= QUIET:
            quiet += block
        else:
            disturbed += block
            time.sleep(min(_PAUSE, timeout))
    counted = (quiet + disturbed)[:rounds]
    samples = {name: [seconds[name] for seconds in counted] for name in sides}
    return Turns(samples, len(quiet) >= rounds)
