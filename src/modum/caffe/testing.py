"""Score a net, as `caffe test` does."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from modum.caffe.net import Net

__all__ = ["score"]

_log = logging.getLogger(__name__)


def score(net: Net, batches: int) -> dict[str, list[float]]:
    """Run `batches` batches, log the outputs of each, and return their means by output."""
    _log.info("Running for %d iterations.", batches)
    sums: list[Tensor] = []
    loss = 0.0
    for batch in range(batches):
        loss += float(net.compute())
        outputs = net.output_values()
        values = [value.double().flatten() for _, _, value in outputs]
        sums = [a + b for a, b in zip(sums, values, strict=True)] if sums else values
        for (name, _, _), numbers in zip(outputs, values, strict=True):
            for number in numbers.tolist():
                _log.info("Batch %d, %s = %g", batch, name, number)
    _log.info("Loss: %g", loss / batches)
    means: dict[str, list[float]] = {}
    for (name, weight, _), total in zip(net.output_values(), sums, strict=True):
        means[name] = (total / batches).tolist()
        for mean in means[name]:
            _log.info("%s = %g%s", name, mean, f" (* {weight:g} = {weight * mean:g} loss)" if weight else "")
    return means
