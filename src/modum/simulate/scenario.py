"""The scenario to simulate."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from modum.plan.cluster import Cluster
from modum.plan.estimate import ALL_REDUCE
from modum.rules import RULES, Elastic, check_interval, rule_from_text

if TYPE_CHECKING:
    from modum.rules import Auto, UpdateRule

Distribution = Literal["lognormal", "exponential"]
DISTRIBUTIONS: tuple[Distribution, ...] = ("lognormal", "exponential")
MOST_WORKERS = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Scenario:
    """A job on a cluster.

    Attributes:
        cluster: the machines.
        nbytes: bytes of the model's weights.
        step_seconds: mean time of a local step.
        spread: standard deviation of a step's time divided by its mean, if log-normal; 0: every step takes the mean.
        distribution: of step times: "lognormal", or "exponential", which has a fixed part of `1 - spread` of the
            mean and an exponential rest.
        steps: local steps per worker, on average. All workers take steps from one pool of `steps * workers`, as
            samples are shared out, so faster ones do more. A synchronous job does `steps` together.
        rule: a name in `modum.rules.RULES`, with optional settings ("elastic:moving_rate=0.1"), which with
            `cluster.group_size` above 1 is the rule between groups; or "allreduce" over all workers.
        interval: steps between exchanges, as in `modum.rules.Elastic`.
        overlap: whether exchanges run beside compute; for "allreduce": whether it hides under the backward pass.
        stragglers: number of workers that need `slowdown` times as long for every step.
        slowdown: see `stragglers`.
        failure_seconds: mean time until a worker fails, of an exponential distribution; None: never. What its group
            has done since its last exchange is lost and done again by others; a synchronous job stops as a whole.
        replace_seconds: time until a new group replaces a failed one (or a synchronous job goes on);
            None: never.
        joiners: number of workers that join `join_seconds` after the others.
        join_seconds: see `joiners`.
        seed: seed of all random numbers.

    Raises:
        ValueError: a value is out of its range; the message says which.
    """

    cluster: Cluster = field(default_factory=Cluster)
    nbytes: int = 100_000_000
    step_seconds: float = 0.2
    spread: float = 0.0
    distribution: Distribution = "lognormal"
    steps: int = 100
    rule: str = Elastic.name
    interval: int | Auto = "auto"
    overlap: bool = True
    stragglers: int = 0
    slowdown: float = 1.0
    failure_seconds: float | None = None
    replace_seconds: float | None = None
    joiners: int = 0
    join_seconds: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        workers, group_size = self.cluster.workers, self.cluster.group_size
        if workers > MOST_WORKERS:
            raise ValueError(f"workers ({workers}) must be at most {MOST_WORKERS}")
        for what, least in (("nbytes", 1), ("steps", 1), ("stragglers", 0), ("joiners", 0)):
            if (count := getattr(self, what)) < least:
                raise ValueError(f"{what} ({count}) must be at least {least}")
        for what in ("step_seconds", "failure_seconds"):
            if (value := getattr(self, what)) is not None and not 0 < value < math.inf:
                raise ValueError(f"{what} ({value}) must be greater than 0")
        for what, floor in (("spread", 0.0), ("slowdown", 1.0), ("replace_seconds", 0.0), ("join_seconds", 0.0)):
            if (value := getattr(self, what)) is not None and not floor <= value < math.inf:
                raise ValueError(f"{what} ({value}) must be at least {floor:g}")
        if not self.synchronous and self.rule.partition(":")[0] not in RULES:
            raise ValueError(f"rule ({self.rule}) must be one of {', '.join([*RULES, ALL_REDUCE])}")
        if self.distribution not in DISTRIBUTIONS:
            raise ValueError(f"distribution ({self.distribution}) must be one of {', '.join(DISTRIBUTIONS)}")
        if self.distribution == "exponential" and self.spread > 1:
            raise ValueError(f"spread ({self.spread}) must be at most 1 with an exponential distribution")
        check_interval(self.interval)
        if self.stragglers > workers:
            raise ValueError(f"stragglers ({self.stragglers}) must be at most workers ({workers})")
        if self.joiners > workers - group_size:
            raise ValueError(f"joiners ({self.joiners}) must leave a group of workers ({workers}) to begin")
        if self.synchronous:
            if group_size > 1:
                raise ValueError("allreduce is over all workers: group_size must be 1")
            if self.joiners:
                raise ValueError("allreduce has a fixed number of workers: nobody can join")
        else:
            self.update_rule()
            if self.joiners % group_size:
                raise ValueError(f"joiners ({self.joiners}) must make whole groups of {group_size}")
        if self.failure_seconds is not None and self.replace_seconds is None and self.synchronous:
            raise ValueError("a synchronous job needs replace_seconds: the time it takes to start again")

    @property
    def synchronous(self) -> bool:
        """Whether the job does an all-reduce at every step instead of a rule."""
        return self.rule == ALL_REDUCE

    def update_rule(self) -> UpdateRule:
        """Return the rule between the groups and the box.

        Returns:
            The rule.

        Raises:
            ValueError: `rule` names none.
        """
        return rule_from_text(self.rule, interval=self.interval, overlap=self.overlap)

    @property
    def speed(self) -> float:
        """Steps per second of all workers together if none ever waited: the sum of their speeds."""
        workers = self.cluster.workers - self.stragglers
        return (workers + self.stragglers / self.slowdown) / self.step_seconds
