"""Average many tensors in one all-reduce."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from modum.torch.flat import dense_strides

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from modum.torch.group import TorchGroup


class Bucket:
    """Averages tensors of one dtype over a group in one all-reduce, with a flag for each that says whether it exists.

    A tensor that no member has stays None. Where only some members have it, it counts as zero for the others, and every
    member gets the mean.

    Args:
        views: parts of `memory`, one for each tensor and of its shape.
        memory: 1-D floating tensor; its last `len(views)` elements hold the flags.
        group: the members.
        names: names of the tensors, for error messages; default: their numbers.
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
        """Create a bucket with its own memory for tensors of these shapes."""
        memory = tensors[0].new_zeros(sum(tensor.numel() for tensor in tensors) + len(tensors))
        views, start = [], 0
        for tensor in tensors:
            part = memory[start : start + tensor.numel()]
            views.append(part.as_strided(tensor.shape, dense_strides(tensor), part.storage_offset()))
            start += tensor.numel()
        return cls(views, memory, group)

    @torch.no_grad()
    def average(self, tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Average tensors over the group (collective).

        Args:
            tensors: one for each view, dense; None where this member has none.

        Returns:
            The given tensors, overwritten with the means; a new tensor where this member had none and another one did.

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
