"""The six update rules of Caffe, on flat tensors that hold all parameters.

Each processes its tensors in pieces that stay in a core's cache, so that a rule of several operations passes over
memory once. A rule leaves the subtracted values in the gradients: Caffe's `diff` after an
update.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import torch

from modum.caffe.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from modum.caffe.parameters import Parameters
    from modum.caffe.proto import SolverParameter

__all__ = ["RULES", "Rule", "make_rule"]

PIECE = 1 << 16
"""Elements to process at once on a CPU: three such tensors of float32 fit a second-level cache."""


class Rule(ABC):
    """An update rule of weights `w` by gradients `g`; `rate` is already multiplied by the parameter's `lr_mult`.

    `history` is the rule's state, `slots` tensors as long as all weights together. In a `.solverstate` the
    first of them comes first, cut into one blob per parameter, then the second.
    """

    slots: ClassVar[int] = 1

    def __init__(self, solver: SolverParameter, parameters: Parameters) -> None:
        self._momentum = float(solver.momentum)
        self._delta = float(solver.delta)
        self._parameters = parameters
        self._l1 = solver.regularization_type == "L1"
        self._decay = float(solver.weight_decay)
        self.history = [torch.zeros_like(parameters.flat) for _ in range(self.slots)]
        self._pieces = self._cut()

    def apply(self, rate: float, iteration: int) -> None:
        """Move all weights by one step. `rate` is the policy's, `iteration` counts the steps from 0."""
        with torch.no_grad():
            for w, g, history, lr_mult, decay_mult in self._pieces:
                if decay := self._decay * decay_mult:
                    if self._l1:
                        g.add_(w.sign(), alpha=decay)
                    else:
                        g.add_(w, alpha=decay)
                self.update(w, g, history, rate * lr_mult, iteration)

    @abstractmethod
    def update(self, w: Tensor, g: Tensor, history: Sequence[Tensor], rate: float, iteration: int) -> None:
        """Move `w`, and leave the subtracted values in `g`."""

    def mend(self) -> None:
        """Set what is not finite in the history to 0: with it, the next step would be no better."""
        for history in self.history:
            history.nan_to_num_(0.0, 0.0, 0.0)

    def rebind(self) -> None:
        """Use the parameters' replaced flat tensors; the history stays."""
        self._pieces = self._cut()

    def _cut(self) -> list[tuple[Tensor, Tensor, list[Tensor], float, float]]:
        parameters = self._parameters
        length = PIECE if parameters.flat.device.type == "cpu" else max(1, parameters.flat.numel())
        return [
            (
                parameters.flat[start:end],
                parameters.gradient[start:end],
                [history[start:end] for history in self.history],
                segment.lr_mult,
                segment.decay_mult,
            )
            for segment in parameters.segments
            for start in range(segment.start, segment.end, length)
            for end in (min(start + length, segment.end),)
        ]


class Sgd(Rule):
    """`v = momentum v + rate g; w -= v`."""

    def update(self, w: Tensor, g: Tensor, history: Sequence[Tensor], rate: float, iteration: int) -> None:
        (v,) = history
        v.mul_(self._momentum).add_(g, alpha=rate)
        w.sub_(v)
        g.copy_(v)


class Nesterov(Rule):
    """`v' = momentum v + rate g; w -= (1 + momentum) v' - momentum v`."""

    def update(self, w: Tensor, g: Tensor, history: Sequence[Tensor], rate: float, iteration: int) -> None:
        (v,) = history
        # the step is rate g + momentum v', since v' - momentum v is rate g
        g.mul_(rate)
        v.mul_(self._momentum).add_(g)
        g.add_(v, alpha=self._momentum)
        w.sub_(g)


class _WithoutMomentum(Rule):
    def __init__(self, solver: SolverParameter, parameters: Parameters) -> None:
        if solver.momentum:
            problem = f"momentum ({solver.momentum:g}) cannot be used with {solver.type}: remove it"
            raise ModelError.at(solver, problem, "momentum")
        super().__init__(solver, parameters)


class AdaGrad(_WithoutMomentum):
    """`h += g^2; w -= rate g / (sqrt(h) + delta)` (Duchi et al. 2011)."""

    def update(self, w: Tensor, g: Tensor, history: Sequence[Tensor], rate: float, iteration: int) -> None:
        (h,) = history
        h.addcmul_(g, g)
        g.div_(h.sqrt().add_(self._delta)).mul_(rate)
        w.sub_(g)


class RmsProp(_WithoutMomentum):
    """`h = d h + (1 - d) g^2; w -= rate g / (sqrt(h) + delta)` with `d = rms_decay`."""

    def __init__(self, solver: SolverParameter, parameters: Parameters) -> None:
        super().__init__(solver, parameters)
        self._rms_decay = float(solver.rms_decay)
        if not 0 <= self._rms_decay < 1:
            problem = f"rms_decay ({self._rms_decay:g}) must be at least 0 and less than 1"
            raise ModelError.at(solver, problem, "rms_decay")

    def update(self, w: Tensor, g: Tensor, history: Sequence[Tensor], rate: float, iteration: int) -> None:
        (h,) = history
        h.mul_(self._rms_decay).addcmul_(g, g, value=1 - self._rms_decay)
        g.div_(h.sqrt().add_(self._delta)).mul_(rate)
        w.sub_(g)


class AdaDelta(Rule):
    """`h = m h + (1 - m) g^2; u = g sqrt((k + delta) / (h + delta)); k = m k + (1 - m) u^2; w -= rate u`.

    `m` is the momentum (Zeiler 2012).
    """

    slots = 2

    def update(self, w: Tensor, g: Tensor, history: Sequence[Tensor], rate: float, iteration: int) -> None:
        h, k = history
        h.mul_(self._momentum).addcmul_(g, g, value=1 - self._momentum)
        g.mul_((k + self._delta).div_(h + self._delta).sqrt_())
        k.mul_(self._momentum).addcmul_(g, g, value=1 - self._momentum)
        g.mul_(rate)
        w.sub_(g)


class Adam(Rule):
    """`m = a m + (1 - a) g; v = b v + (1 - b) g^2; w -= rate c m / (sqrt(v) + delta)`.

    `a` is the momentum, `b` momentum2, and `c = sqrt(1 - b^t) / (1 - a^t)` at iteration `t`, from 1 (Kingma
    and Ba 2015, the order of computation at the end of their section 2).
    """

    slots = 2

    def __init__(self, solver: SolverParameter, parameters: Parameters) -> None:
        super().__init__(solver, parameters)
        self._momentum2 = float(solver.momentum2)
        for name, value in (("momentum", self._momentum), ("momentum2", self._momentum2)):
            if not 0 <= value < 1:
                raise ModelError.at(solver, f"{name} ({value:g}) must be at least 0 and less than 1 with Adam", name)

    def update(self, w: Tensor, g: Tensor, history: Sequence[Tensor], rate: float, iteration: int) -> None:
        m, v = history
        correction = math.sqrt(1 - self._momentum2 ** (iteration + 1)) / (1 - self._momentum ** (iteration + 1))
        m.mul_(self._momentum).add_(g, alpha=1 - self._momentum)
        v.mul_(self._momentum2).addcmul_(g, g, value=1 - self._momentum2)
        torch.div(m, v.sqrt().add_(self._delta), out=g)
        g.mul_(rate * correction)
        w.sub_(g)


RULES: dict[str, type[Rule]] = {
    "SGD": Sgd,
    "Nesterov": Nesterov,
    "AdaGrad": AdaGrad,
    "RMSProp": RmsProp,
    "AdaDelta": AdaDelta,
    "Adam": Adam,
}


def make_rule(solver: SolverParameter, parameters: Parameters) -> Rule:
    """Return the rule that the solver's `type` names.

    Args:
        solver: the solver with its type, regularization and constants.
        parameters: the net's parameters.

    Returns:
        The rule, with a history of zeros.

    Raises:
        ModelError: the type or the regularization is unknown, or a value that the rule needs is out of range.
    """
    if solver.type not in RULES:
        raise ModelError.at(solver, f"solver type {solver.type!r} is not among {', '.join(RULES)}", "type")
    if (kind := solver.regularization_type) not in ("L1", "L2"):
        raise ModelError.at(solver, f"regularization_type {kind!r} is neither L1 nor L2", "regularization_type")
    return RULES[solver.type](solver, parameters)
