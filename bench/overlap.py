"""A worker's step with `overlap=True` while an exchange runs over TCP under it.

What counts is how much longer such a step takes than one with no exchange under it, less the time for which the worker
was ready to run and had no core: that is the processor time that the exchange itself takes, here and in the server, on
a machine with few cores. What is left is waiting for Python's interpreter lock, and memory and caches that are shared.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from bench.machine import OtherLoad
from bench.processes import ROOT, memory_server
from bench.row import Effort, Row
from bench.timing import QUIET

STEPS = {"torch": 0.15, "sleep": 0.1, "python": 0.03}
"""Seconds that a step computes, by what it is made of; see `bench.workers.overlap`."""
NAMES = {"torch": "PyTorch", "sleep": "no CPU, as on a GPU", "python": "pure Python"}
LONGEST = {"torch": 12, "sleep": 12, "python": 4}
"""Exchanges, at most."""


def measure(effort: Effort) -> Iterator[Row]:
    """One row for every kind of step."""
    for kind, seconds in STEPS.items():
        load = OtherLoad()
        with memory_server() as server:
            arguments = (server.address, kind, effort.nbytes, seconds, min(effort.rounds, LONGEST[kind]))
            printed = subprocess.run(
                [sys.executable, "-m", "bench.workers.overlap", *map(str, arguments)],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
            ).stdout
        yield row_of(kind, json.loads(printed), quiet=load.share() <= QUIET)


def row_of(kind: str, result: dict[str, Any], *, quiet: bool) -> Row:
    """The row that follows from what `bench.workers.overlap` printed.

    Raises:
        ValueError: it saw no step with an exchange under it, or none without: there is nothing to compare.
    """
    steps, transfers = result["steps"], result["transfers"]
    under = [step for step in steps if step["covered"]]
    clear = [step for step in steps if not step["covered"]]
    if not under or not clear:
        raise ValueError(
            f"{'every' if under else 'no'} step of {kind} had an exchange under it: nothing to compare with"
        )
    wall, wall_under = (statistics.median([step["wall"] for step in some]) for some in (clear, under))
    own, own_under = (statistics.median([step["wall"] - step["waited"] for step in some]) for some in (clear, under))
    boundaries = [step["boundary"] for step in steps]
    usual = statistics.quantiles(boundaries, n=4)[0]
    copying = (sum(boundaries) - usual * len(boundaries)) / len(transfers)
    return Row(
        what=f"overlap=True, step ({NAMES[kind]}) under a tcp exchange, longer by",
        measured=100 * (own_under / own - 1),
        unit="%",
        at_most=5,
        detail=f"step alone {wall * 1e3:.1f} ms, under an exchange {wall_under * 1e3:.1f} ms "
        f"({100 * (wall_under / wall - 1):+.0f} %); exchange {statistics.median(transfers) * 1e3:.0f} ms, "
        f"{len(under)} of {len(steps)} steps had one; between steps, snapshot and subtraction {copying * 1e3:.0f} ms",
        samples={
            "clear": [step["wall"] for step in clear],
            "under": [step["wall"] for step in under],
            "transfers": transfers,
        },
        quiet=quiet,
    )
