"""The synchronous half of the hybrid rule: gradients averaged inside a group."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from modum.torch.flat import FlatVector
    from modum.torch.group import TorchGroup


class GradientBucket:
    """All gradients of one flat vector, averaged by one all-reduce.

    It uses the vector's scratch tensor, in the vector's layout, with a flag behind it for each parameter:
    whether it has a gradient. A parameter that no member has a gradient for keeps None; where some have one,
    the others count as zero, and every member gets the mean. So an optimizer treats each parameter alike
    everywhere, and the members' weights stay the same to the bit.
    """

    def __init__(self, vector: FlatVector, group: TorchGroup) -> None:
        assert vector.scratch is not None, "a group of one has no gradients to average"
        self._group = group
        self._bucket = vector.scratch
        self._parameters = [
            (shared, view)
            for shared, view in zip(vector.tensors, vector.views(self._bucket), strict=True)
            if shared.trainable
        ]
        self._present = self._bucket[vector.size : vector.size + len(self._parameters)]

    @torch.no_grad()
    def average(self) -> None:
        """Average all gradients over the group, in place (collective).

        Raises:
            ValueError: a gradient is sparse.
        """
        present = [shared.tensor.grad is not None for shared, _ in self._parameters]
        for shared, view in self._parameters:
            gradient = shared.tensor.grad
            if gradient is None:
                view.zero_()
            elif gradient.is_sparse:
                raise ValueError(f"the gradient of {shared.name} is sparse: groups need dense ones (sparse=False)")
            else:
                view.copy_(gradient)
        self._present.copy_(torch.tensor(present))
        self._group.average(self._bucket)
        for (shared, view), anywhere in zip(self._parameters, self._present.tolist(), strict=True):
            if anywhere:
                _assign(shared.tensor, view)


def _assign(parameter: Tensor, gradient: Tensor) -> None:
    if parameter.grad is None:
        parameter.grad = gradient.clone()
    else:
        parameter.grad.copy_(gradient)
