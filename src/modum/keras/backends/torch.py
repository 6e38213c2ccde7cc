"""Keras on torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch.utils.data import DataLoader, IterableDataset

from modum.keras.backends.base import Backend
from modum.torch.flat import SharedTensor, check_tensors, flatten
from modum.torch.group import group_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from modum.groups import Group
    from modum.job import Job
    from modum.keras.variables import ModelVariable
    from modum.parameters import TensorSpec, Vector
    from modum.rules import UpdateRule
    from modum.samples import Prefetch
    from modum.torch import TorchGroup


class TorchBackend(Backend):
    """Makes variables views of one flat tensor, and provides data through a `DataLoader`.

    PyTorch's optimizers change parameters in place, so versions are copies.
    """

    name = "torch"

    def group(self, job: Job, rule: UpdateRule) -> Group[Any]:
        return group_of(job, rule, torch.device("cuda" if torch.cuda.is_available() else "cpu"))

    def vectors(
        self, variables: Sequence[ModelVariable], group: Group[Any]
    ) -> tuple[Sequence[Vector], list[TensorSpec]]:
        shared = [SharedTensor(name=one.path, tensor=one.variable.value, trainable=one.trainable) for one in variables]
        check_tensors(shared)
        return flatten(shared, cast("TorchGroup", group)), [one.spec for one in shared]

    def data(self, prefetch: Prefetch, load: Callable[[Any], tuple[Any, ...]]) -> Any:
        return DataLoader(_Batches(prefetch, load), batch_size=None)

    @torch.no_grad()
    def means(self, gradients: Sequence[Any], like: Sequence[Any], group: Group[Any], purpose: str) -> list[Any]:
        return group.average(gradients, like, purpose=purpose)

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return function

    def kept(self, variables: Sequence[Any], *, stash: bool) -> list[Any]:
        values = [variable.value.detach() for variable in variables]
        return [value.clone() for value in values] if stash else values

    def forward(
        self, function: Callable[..., tuple[list[Any], Any]], variables: list[Any], inputs: list[Any], *others: Any
    ) -> tuple[list[Any], Any, Callable[[Sequence[Any]], list[Any]]]:
        sources = [tensor.requires_grad_() for tensor in (*variables, *inputs)]
        with torch.enable_grad():
            outputs, rest = function(sources[: len(variables)], sources[len(variables) :], *others)

        def back(gradients: Sequence[Any]) -> list[Any]:
            pairs = [pair for pair in zip(outputs, gradients, strict=True) if pair[0].requires_grad]
            if not pairs or not sources:
                return [torch.zeros_like(source) for source in sources]
            found: Sequence[Any] = torch.autograd.grad(
                [output for output, _ in pairs], sources, [gradient for _, gradient in pairs], allow_unused=True
            )
            return [
                torch.zeros_like(source) if gradient is None else gradient
                for source, gradient in zip(sources, found, strict=True)
            ]

        return outputs, rest, back

    def apply(self, optimizer: Any, gradients: list[Any], variables: list[Any]) -> None:
        with torch.no_grad():
            optimizer.apply(gradients, variables)


class _Batches(IterableDataset[Any]):
    """A data set whose iterations are passes over the shared batches."""

    def __init__(self, prefetch: Prefetch, load: Callable[[Any], tuple[Any, ...]]) -> None:
        self._prefetch = prefetch
        self._load = load

    def __iter__(self) -> Iterator[Any]:
        return map(self._load, self._prefetch.batches())
