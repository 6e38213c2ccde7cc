"""All weights that a solver moves, in one flat tensor, and all their gradients in another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from modum.parameters import ALIGNMENT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from modum.caffe.graph import Learnable

__all__ = ["Parameters", "Segment"]


@dataclass(frozen=True, slots=True)
class Segment:
    """Elements `[start, end)` of the flat tensors, all with the same multipliers."""

    start: int
    end: int
    lr_mult: float
    decay_mult: float


class Parameters:
    """The learnable blobs of a net, those with the same multipliers side by side.

    Every blob becomes a view of `flat` (its value and identity stay) and has its gradient in `gradient`, where
    autograd adds to it. Blobs that do not learn (`lr_mult: 0`) are in neither. Layers that share a blob have views
    of the same elements, so that their gradients add up.
    """

    def __init__(self, learnables: Sequence[Learnable]) -> None:
        trained = [learnable for learnable in learnables if learnable.lr_mult != 0]
        self.learnables = sorted(trained, key=lambda one: (-one.lr_mult, -one.decay_mult))
        """The learnable blobs, in the order of the flat tensors."""
        first = trained[0].tensor if trained else torch.zeros(0)
        step = ALIGNMENT // first.itemsize
        self._starts: dict[int, int] = {}
        self.segments: list[Segment] = []
        end = 0
        for learnable in self.learnables:
            start, end = end, end + -(-learnable.tensor.numel() // step) * step
            self._starts[id(learnable)] = start
            last = self.segments[-1] if self.segments else None
            if last and (last.lr_mult, last.decay_mult) == (learnable.lr_mult, learnable.decay_mult):
                self.segments[-1] = Segment(last.start, end, last.lr_mult, last.decay_mult)
            else:
                self.segments.append(Segment(start, end, learnable.lr_mult, learnable.decay_mult))
        self.gradient = torch.zeros(end, dtype=first.dtype, device=first.device)
        self.flat = torch.zeros_like(self.gradient)
        self.bind(self.flat)

    @torch.no_grad()
    def bind(self, flat: Tensor) -> None:
        """Move all values into `flat`, which is as long as `gradient`, unless they are there already."""
        self.flat = flat
        for learnable in self.learnables:
            self.view(flat, learnable).copy_(learnable.tensor)
            for tensor in learnable.tensors:
                tensor.data = self.view(flat, learnable).view(tensor.shape)
                tensor.grad = self.view(self.gradient, learnable).view(tensor.shape)

    def view(self, flat: Tensor, learnable: Learnable) -> Tensor:
        """Return the part of `flat` that belongs to `learnable`, in its shape."""
        start = self._starts[id(learnable)]
        return flat[start : start + learnable.tensor.numel()].view(learnable.tensor.shape)
