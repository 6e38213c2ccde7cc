"""Many tensors averaged by one all-reduce."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from modum.torch.flat import dense_strides

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from modum.torch.group import TorchGroup


class Bucket:
    """Memory in which tensors of one dtype are averaged over a group, with a flag for each: whether it is there.

    A tensor that no member has stays None; where some have one, the others count as zero, and every member gets the
    mean.

    Args:
        views: where each tensor is put in `memory`, of its shape.
        memory: 1-D, floating; the flags are put into its last `len(views)` elements.
        group: the members.
        names: of the tensors, for errors; default: their numbers.
    """

    def __init__(
        self, views: Sequence[Tensor], memory: Tensor, group: TorchGroup, names: Sequence[str] | None = None
    ) -> None:
        self._views = list(views)
        self._names = [str(number) for number in range(len(self._views))] if names is None else list(names)
        self._memory = memory
        self._group = group
        self._present = memory[memory.numel() - len(self._views) :]

    @classmethod
    def like(cls, tensors: Sequence[Tensor], group: TorchGroup) -> Bucket:
        """Make one, with memory of its own, for tensors of these shapes."""
        memory = tensors[0].new_zeros(sum(tensor.numel() for tensor in tensors) + len(tensors))
        views, start = [], 0
        for tensor in tensors:
            part = memory[start : start + tensor.numel()]
            views.append(part.as_strided(tensor.shape, dense_strides(tensor), part.storage_offset()))
            start += tensor.numel()
        return cls(views, memory, group)

    @torch.no_grad()
    def average(self, tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Return the means (collective): the tensors that were given, changed, and new ones in place of missing ones.

        Raises:
            ValueError: a tensor is sparse; nothing was averaged.
        """
        for name, tensor, view in zip(self._names, tensors, self._views, strict=True):
            if tensor is None:
                view.zero_()
            elif tensor.is_sparse:
                raise ValueError(f"the gradient of {name} is sparse: groups need dense ones (sparse=False)")
            else:
                view.copy_(tensor)
        self._present.copy_(torch.tensor([tensor is not None for tensor in tensors]))
        self._group.reduce(self._memory)
        return [
            tensor if not anywhere else view.clone() if tensor is None else tensor.copy_(view)
            for tensor, view, anywhere in zip(tensors, self._views, self._present.tolist(), strict=True)
        ]
