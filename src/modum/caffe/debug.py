"""Log what `debug_info: true` asks for: the mean absolute value of every blob and gradient, layer by layer."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from modum.caffe.graph import Graph, Step
    from modum.caffe.parameters import Parameters

__all__ = ["Trace"]

_log = logging.getLogger(__name__)


class Trace:
    """Records the blobs that the layers of a pass read and made, and logs them as Caffe does."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._records: list[tuple[Step, list[Tensor], list[Tensor]]] = []

    def begin(self) -> None:
        """Begin a pass and forget the previous one."""
        self._records = []

    def record(self, step: Step, bottoms: Sequence[Tensor], tops: Sequence[Tensor]) -> None:
        """Record that a layer was run."""
        for tensor in bottoms:
            if tensor.requires_grad:
                tensor.retain_grad()
        self._records.append((step, list(bottoms), list(tops)))

    def forward(self) -> None:
        """Log a forward pass."""
        names = self._graph.names
        for step, _, tops in self._records:
            for number, top in zip(step.tops, tops, strict=True):
                _log.info("    [Forward] Layer %s, top blob %s data: %g", step.name, names[number], _mean(top))
            for index, blob in enumerate(step.layer.blobs):
                _log.info("    [Forward] Layer %s, param blob %d data: %g", step.name, index, _mean(blob))

    def backward(self) -> None:
        """Log the following backward pass, and forget both."""
        names = self._graph.names
        for step, bottoms, _ in reversed(self._records):
            for number, bottom in zip(step.bottoms, bottoms, strict=True):
                if bottom.grad is not None:
                    mean = _mean(bottom.grad)
                    _log.info("    [Backward] Layer %s, bottom blob %s diff: %g", step.name, names[number], mean)
            for index, blob in enumerate(step.layer.blobs):
                if blob.grad is not None:
                    _log.info("    [Backward] Layer %s, param blob %d diff: %g", step.name, index, _mean(blob.grad))
        self._records = []
        tensors = [learnable.tensor.detach() for learnable in self._graph.learnables]
        diffs = [learnable.tensor.grad for learnable in self._graph.learnables if learnable.tensor.grad is not None]
        _log.info(
            "    [Backward] All net params (data, diff): L1 norm = (%g, %g); L2 norm = (%g, %g)",
            *(_norm(some, power) for power in (1, 2) for some in (tensors, diffs)),
        )

    def update(self, parameters: Parameters) -> None:
        """Log an update: the new weights, and the values subtracted."""
        for learnable in parameters.learnables:
            tensor = learnable.tensor
            if tensor.grad is not None:
                _log.info(
                    "    [Update] Layer %s, param %d data: %g; diff: %g",
                    *(learnable.layer, learnable.index, _mean(tensor), _mean(tensor.grad)),
                )


def _mean(tensor: Tensor) -> float:
    return float(tensor.detach().abs().mean()) if tensor.numel() else 0.0


def _norm(tensors: Sequence[Tensor], power: int) -> float:
    powers = sum(float(tensor.norm(power)) ** power for tensor in tensors)
    return float(powers ** (1 / power))
