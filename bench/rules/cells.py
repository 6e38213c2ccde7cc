"""The runs behind docs/rules.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from bench.rules.diloco import NAME as DILOCO
from bench.rules.runs import SYNCHRONOUS, Run

SEEDS = 3
WORKERS = (4, 8, 16, 32)
TEAM = 4
"""Workers of a group, where there are groups."""
INTERVALS = (1, 4)
SCALES = {4: ("1", "2", "4", "8"), 8: ("1", "2", "4", "8"), 16: ("2", "4", "8", "16"), 32: ("2", "4", "8", "16")}
"""Factors on the learning rate that synchronous runs of so many workers are tuned over."""
SMALL = (4, 8)
"""Where other rules are looked at."""
LOCAL = {"cnn": "1", "lstm": "4", "gpt": "4"}
"""Factors on the learning rate that are best for plain averaging of local steps, of 1, 2 and 4."""
BEFORE = 0.9
"""What all groups' moving rates added up to in the rule that was the default before."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table.

    Attributes:
        label: what is compared.
        runs: by the number of workers, a run with seed 0.
    """

    label: str
    runs: dict[int, Run]

    def seeded(self, workers: int) -> list[Run]:
        """Return the runs of one cell, one for each seed."""
        return [replace(self.runs[workers], seed=seed) for seed in range(SEEDS)] if workers in self.runs else []

    @property
    def synchronous(self) -> bool:
        """Whether the line is a peer to be tuned."""
        return any(run.rule == SYNCHRONOUS and run.workers > 1 for run in self.runs.values())


def rows(task: str) -> Iterator[Row]:
    """Yield the lines of a task's table."""
    yield Row("one worker", {count: Run(task=task) for count in WORKERS})
    for scale in sorted({scale for scales in SCALES.values() for scale in scales}, key=float):
        counts = [count for count, scales in SCALES.items() if scale in scales]
        yield Row(
            f"synchronous, rate x {scale}", {count: Run(task=task, workers=count, scale=scale) for count in counts}
        )
    for steps in INTERVALS:
        yield Row(
            f"elastic, a = {BEFORE} / p, rate x 1, every {_ordinal(steps)} step",
            {
                count: Run(
                    task=task,
                    workers=count,
                    rule=f"elastic:moving_rate={min(0.5, BEFORE / count):g}",
                    interval=steps,
                )
                for count in WORKERS
            },
        )
    yield _row("Downpour, rate x 1, every 4th step", Run(task=task, rule="downpour", interval=4), SMALL)
    yield _row("DiLoCo as published, rate x 1, every 32nd step", Run(task=task, rule=DILOCO, interval=32), SMALL)
    scale = LOCAL[task]
    averaging = Run(task=task, rule=f"{DILOCO}:rate=1,momentum=0", interval=4, scale=scale)
    yield _row(f"DiLoCo at its best: plain averaging, rate x {scale}, every 4th step", averaging, SMALL)
    default = Run(task=task, rule="auto", scale="auto")
    for steps in INTERVALS:
        yield _row(f"**the default**, every {_ordinal(steps)} step", replace(default, interval=steps))
    yield _row("the default, every 4th step, one worker 4 times slower", replace(default, interval=4, slowdown=4.0))
    yield _row(
        "the default, every 4th step, int8: a 12.8th of the bytes of every step's float32",
        replace(default, interval=4, rule="auto:compression=int8"),
    )
    for steps in INTERVALS:
        teams = replace(default, interval=steps, group_size=TEAM)
        counts = [count for count in WORKERS if count > TEAM]
        yield _row(f"**the default**, every {_ordinal(steps)} step, groups of {TEAM}", teams, counts)


def _row(label: str, run: Run, counts: Sequence[int] = WORKERS) -> Row:
    return Row(label, {count: replace(run, workers=count) for count in counts})


def _ordinal(steps: int) -> str:
    return {1: "single", 2: "2nd", 3: "3rd"}.get(steps, f"{steps}th")
