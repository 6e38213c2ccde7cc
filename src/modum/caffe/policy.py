"""Learning rate policies: the rate of an iteration, as Caffe's SGD solver computes it."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

from modum.caffe.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable

    from modum.caffe.proto import SolverParameter

__all__ = ["POLICIES", "Policy"]

_log = logging.getLogger(__name__)


def _fixed(solver: SolverParameter, iteration: int, step: int) -> float:
    return float(solver.base_lr)


def _powers(solver: SolverParameter, iteration: int, step: int) -> float:
    return float(solver.base_lr * solver.gamma**step)


def _exp(solver: SolverParameter, iteration: int, step: int) -> float:
    return float(solver.base_lr * solver.gamma**iteration)


def _inv(solver: SolverParameter, iteration: int, step: int) -> float:
    return float(solver.base_lr * (1.0 + solver.gamma * iteration) ** -solver.power)


def _poly(solver: SolverParameter, iteration: int, step: int) -> float:
    return float(solver.base_lr * max(0.0, 1.0 - iteration / solver.max_iter) ** solver.power)


def _sigmoid(solver: SolverParameter, iteration: int, step: int) -> float:
    exponent = solver.gamma * (iteration - solver.stepsize)
    return float(solver.base_lr * (1.0 + math.tanh(exponent / 2)) / 2)  # exp() would overflow


POLICIES: dict[str, Callable[[SolverParameter, int, int], float]] = {
    "fixed": _fixed,
    "step": _powers,
    "exp": _exp,
    "inv": _inv,
    "multistep": _powers,
    "poly": _poly,
    "sigmoid": _sigmoid,
}
"""Computes the rate from the solver's settings, the iteration (from 0), and the number of steps passed."""


class Policy:
    """Computes the learning rate over a solver's iterations.

    =========  ==================================================
    policy     rate at iteration `i`
    =========  ==================================================
    fixed      `base_lr`
    step       `base_lr * gamma ^ floor(i / stepsize)`
    exp        `base_lr * gamma ^ i`
    inv        `base_lr * (1 + gamma i) ^ -power`
    multistep  `base_lr * gamma ^ (stepvalues that are not above i)`
    poly       `base_lr * (1 - i / max_iter) ^ power`; after max_iter as at max_iter, where Caffe has no value
    sigmoid    `base_lr / (1 + exp(-gamma (i - stepsize)))`
    =========  ==================================================

    Args:
        solver: the solver with the policy and its constants.

    Raises:
        ModelError: the policy is unknown, or a value that it needs is missing.
    """

    def __init__(self, solver: SolverParameter) -> None:
        self._solver = solver
        self.current_step = 0
        """Steps passed so far, for `step` and `multistep`; part of a solver's saved state."""
        name = solver.lr_policy
        if name not in POLICIES:
            raise ModelError.at(solver, f"lr_policy {name!r} is not among {', '.join(POLICIES)}", "lr_policy")
        for policy, field in (("step", "stepsize"), ("poly", "max_iter")):
            if name == policy and getattr(solver, field) < 1:
                problem = f'lr_policy "{name}" needs a {field} of at least 1, not {getattr(solver, field)}'
                raise ModelError.at(solver, problem, "lr_policy")
        self._rate = POLICIES[name]

    def rate(self, iteration: int) -> float:
        """Return the rate of `iteration`, which never decreases while a solver runs."""
        solver = self._solver
        if solver.lr_policy == "step":
            self.current_step = iteration // solver.stepsize
        elif solver.lr_policy == "multistep":
            # all passed steps, not one per call: workers that share the iterations skip some here
            while self.current_step < len(solver.stepvalue) and iteration >= solver.stepvalue[self.current_step]:
                self.current_step += 1
                _log.info("MultiStep Status: Iteration %d, step = %d", iteration, self.current_step)
        return self._rate(solver, iteration, self.current_step)
