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
        like: tensors of the shapes to average.
        group: the members.
    """

    def __init__(self, like: Sequence[Tensor], group: TorchGroup) -> None:
        self._memory = like[0].new_zeros(sum(tensor.numel() for tensor in like) + len(like))
        self._views: list[Tensor] = []
        start = 0
        for tensor in like:
            part = self._memory[start : start + tensor.numel()]
            self._views.append(part.as_strided(tensor.shape, dense_strides(tensor), part.storage_offset()))
            start += tensor.numel()
        self._present = self._memory[start:]
        self._group = group

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
        for number, (tensor, view) in enumerate(zip(tensors, self._views, strict=True)):
            if tensor is None:
                view.zero_()
            elif tensor.is_sparse:
                raise ValueError(f"the gradient of {number} is sparse: groups need dense ones (sparse=False)")
            else:
                view.copy_(tensor)
        self._present.copy_(torch.tensor([tensor is not None for tensor in tensors]))
        self._group.reduce(self._memory)
        return [
            tensor if not anywhere else view.clone() if tensor is None else tensor.copy_(view)
            for tensor, view, anywhere in zip(tensors, self._views, self._present.tolist(), strict=True)
        ]
