"""One run of a rule, and all runs that make the tables."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from bench.rules.diloco import NAME as DILOCO
from bench.rules.diloco import diloco
from bench.rules.tasks import TASKS
from modum.plan import Cluster
from modum.rules import Drift
from modum.simulate import Scenario, simulate

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

SYNCHRONOUS = "allreduce"
SPREAD = 0.1
"""Standard deviation of a step's time, divided by its mean."""
FAST = 1e18
"""Bytes per second of what is not to count here."""


@dataclass(frozen=True, kw_only=True, order=True)
class Run:
    """One job in virtual time.

    Attributes:
        task: a name in `TASKS`.
        workers: in all.
        group_size: workers of a group. Each has a batch of its own, and the rate is `sqrt(group_size)` times as large.
        rule: as `modum simulate --rule` takes it, "auto" with or without settings, "allreduce", or "diloco" with the
            outer optimizer's `rate` and `momentum` ("diloco:rate=1,momentum=0").
        interval: local steps between exchanges; 0 for a synchronous job.
        scale: factor on the learning rate: none, sqrt, linear, auto or a number.
        slowdown: of one worker, in times.
        seed: of everything.
    """

    task: str
    workers: int = 1
    group_size: int = 1
    rule: str = SYNCHRONOUS
    interval: int = 0
    scale: str = "none"
    slowdown: float = 1.0
    seed: int = 0

    def play(self) -> float:
        """Train, and return how good the shared weights are at the end; larger is better."""
        import torch

        torch.set_num_threads(1)
        scale = None if self.scale == "none" else self.scale if self.scale.isalpha() else float(self.scale)
        task = TASKS[self.task](self.seed, scale)
        task.rate *= math.sqrt(self.group_size)
        rule, colon, settings = self.rule.partition(":")
        if rule == DILOCO:
            values = dict(setting.split("=") for setting in settings.split(",") if setting)
            diloco(task, self.workers, self.interval, **{name: float(value) for name, value in values.items()})
            return float(task.accuracy())
        if rule == "auto":
            chosen = task.rule.between
            rule = f"drift:momentum={chosen.momentum}" if isinstance(chosen, Drift) else chosen.name
            colon = "," if colon and ":" in rule else colon
        rule += colon + settings
        simulate(
            Scenario(
                cluster=Cluster(
                    workers=self.workers,
                    group_size=self.group_size,
                    link=FAST,
                    server_memory=FAST,
                    bus=FAST,
                    copy=FAST,
                    latency=0.0,
                ),
                nbytes=task.shared.nbytes,
                step_seconds=1.0,
                spread=SPREAD,
                steps=task.steps // self.workers,
                rule=rule,
                interval=self.interval or "auto",
                stragglers=int(self.slowdown > 1),
                slowdown=self.slowdown,
                seed=self.seed,
            ),
            train=task,
        )
        return float(task.accuracy())


def _settle(places: Queue[int]) -> None:
    """Keep to one core: a run's threads take turns, and to wake one on another core takes longer than its turn."""
    os.sched_setaffinity(0, {places.get()})


class Results:
    """What was measured so far, in a file of one line for each run.

    Args:
        file: where the lines are.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known: dict[Run, float] = {}
        if file.exists():
            for line in file.read_text().splitlines():
                entry = json.loads(line)
                result = entry.pop("result")
                self._known[Run(**entry)] = result

    def __getitem__(self, run: Run) -> float:
        return self._known[run]

    def __contains__(self, run: Run) -> bool:
        return run in self._known

    def measure(self, runs: Iterable[Run], processes: int | None = None) -> Iterator[tuple[Run, float]]:
        """Do the runs that are missing, several at one time, and yield each as it ends."""
        missing = [run for run in dict.fromkeys(runs) if run not in self]
        if not missing:
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        context, cores = get_context("spawn"), sorted(os.sched_getaffinity(0))
        count = processes or len(cores)
        places: Queue[int] = context.Queue()
        for place in range(count):
            places.put(cores[place % len(cores)])
        with ProcessPoolExecutor(count, mp_context=context, initializer=_settle, initargs=(places,)) as pool:
            playing = {pool.submit(run.play): run for run in missing}
            for future in as_completed(playing):
                run, result = playing[future], future.result()
                self._known[run] = result
                with self._file.open("a") as lines:
                    lines.write(json.dumps({**asdict(run), "result": result}) + "\n")
                yield run, result
