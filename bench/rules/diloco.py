"""DiLoCo: workers take local steps, and meet for one step of an outer optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from modum.simulate import Moment

if TYPE_CHECKING:
    from bench.rules.tasks import Task

NAME = "diloco"


def diloco(task: Task, workers: int, interval: int, *, rate: float = 0.7, momentum: float = 0.9) -> None:
    """Train `task.shared` by synchronous rounds.

    Reference: Douillard, Feng, Rusu et al. 2023, "DiLoCo: Distributed Low-Communication Training of Language Models"
    (arXiv 2311.08105), algorithm 1; the outer optimizer is SGD with Nesterov's momentum. Inner optimizers keep their
    state. Statistics are averaged.

    Args:
        task: what is trained.
        workers: how many.
        interval: local steps of a round (`H`).
        rate: of the outer optimizer.
        momentum: of the outer optimizer; 0: plain averaging, if `rate` is 1.
    """
    outer = torch.nn.Parameter(torch.from_numpy(task.shared))  # shares its memory
    optimizer = torch.optim.SGD([outer], rate, momentum=momentum, nesterov=momentum > 0)
    local = [task.shared.copy() for _ in range(workers)]
    learners = [task.learner(weights, 1) for weights in local]
    steps, learned = task.steps // workers, task.shared.size - task.statistics
    for step in range(steps):
        for learner in learners:
            learner.step(Moment(step / steps, step, workers))
        if (step + 1) % interval == 0 or step + 1 == steps:
            average = torch.from_numpy(np.mean(local, axis=0))
            outer.grad = outer.detach() - average
            optimizer.step()
            task.shared[learned:] = average[learned:]
            for weights in local:
                weights[:] = task.shared
