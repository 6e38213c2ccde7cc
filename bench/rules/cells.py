"""The runs behind docs/rules.md."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from bench.rules.runs import SYNCHRONOUS, Run

SEEDS = 3
WORKERS = (4, 8, 16)
INTERVALS = (1, 4)
SCALES = ("1", "2", "4", "8", "16")
"""Factors on the learning rate that synchronous runs are tuned over."""
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
    for scale in SCALES:
        yield Row(
            f"synchronous, rate x {scale}", {count: Run(task=task, workers=count, scale=scale) for count in WORKERS}
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
    for steps in INTERVALS:
        yield Row(
            f"**the default**, every {_ordinal(steps)} step",
            {count: Run(task=task, workers=count, rule="auto", interval=steps, scale="auto") for count in WORKERS},
        )
    yield Row(
        "the default, every 4th step, one worker 4 times slower",
        {
            count: Run(task=task, workers=count, rule="auto", interval=4, scale="auto", slowdown=4.0)
            for count in WORKERS
        },
    )


def _ordinal(steps: int) -> str:
    return {1: "single", 2: "2nd", 3: "3rd"}.get(steps, f"{steps}th")
