"""Plays simulated worlds, and prints those in which the box did not keep its word.

python -m tests.simulation 2000                 worlds of the seeds 0 to 1999
python -m tests.simulation 200000 --first 7000  others
python -m tests.simulation --replay 1234        one world again, with what happens in it
python -m tests.simulation --replicas ...       the same for servers that stand in for each other
"""

import argparse
import gc
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import islice

from tests.simulation import replicas, world
from tests.simulation.world import Result

BATCH = 50


def batch(play: Callable[[int], Result], first: int, count: int) -> list[Result]:
    """Play some worlds."""
    played = [play(seed) for seed in range(first, first + count)]
    gc.collect()  # what is left of the worlds: they end with collections turned off
    return played


def main() -> int:
    """Play, and say how it went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("worlds", type=int, nargs="?", default=2000, help="how many (2000)")
    parser.add_argument("--first", type=int, default=0, help="seed of the first one (0)")
    parser.add_argument("--replay", type=int, help="play the world of this seed, and print what happens")
    parser.add_argument("--most", type=int, default=10, help="wrong worlds after which to stop (10)")
    parser.add_argument("--replicas", action="store_true", help="servers stand in for each other")
    choice = parser.parse_args()
    play = replicas.play if choice.replicas else world.play
    if choice.replay is not None:
        result = play(choice.replay, print)
        print(result.wrong or "right")
        return bool(result.wrong)
    start = time.perf_counter()
    wrong: list[Result] = []
    played = acknowledged = refused = faults = 0
    kinds: Counter[str] = Counter()
    misfortunes: Counter[str] = Counter()
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as processes:
        starts = iter(range(choice.first, choice.first + choice.worlds, BATCH))
        end = choice.first + choice.worlds
        waiting = [processes.submit(batch, play, first, min(BATCH, end - first)) for first in islice(starts, 4)]
        while waiting:
            for result in waiting.pop(0).result():
                played += 1
                acknowledged += result.history.acknowledged
                refused += result.history.refused
                faults += result.faults
                kinds.update(result.history.kinds)
                misfortunes.update({name.split()[0]: count for name, count in result.misfortunes.items()})
                if result.wrong:
                    wrong.append(result)
                    print(f"seed {result.seed}: {result.wrong}", flush=True)
            if len(wrong) >= choice.most:
                for future in waiting:
                    future.cancel()
                break
            waiting += [processes.submit(batch, play, first, min(BATCH, end - first)) for first in islice(starts, 1)]
            if sys.stderr.isatty():
                print(f"\r{played} of {choice.worlds} worlds, {len(wrong)} wrong", end="", file=sys.stderr)
    seconds = time.perf_counter() - start
    print(
        f"{played} worlds in {seconds:.0f} s, {len(wrong)} wrong: {acknowledged} operations acknowledged,"
        f" {refused} refused, {faults} faults"
    )
    print("  " + ", ".join(f"{name} {count}" for name, count in sorted((kinds + misfortunes).items())))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
