"""Keras on torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch.utils.data import DataLoader, IterableDataset

from modum.cluster import detect
from modum.keras.backend import Backend
from modum.torch.averager import group_of
from modum.torch.flat import SharedTensor, check_dtypes, flatten

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from modum.box import Box
    from modum.groups import Group
    from modum.keras.variables import ModelVariable
    from modum.parameters import Vector
    from modum.rules import UpdateRule
    from modum.samples import Prefetch
    from modum.torch import TorchGroup


class OnTorch(Backend):
    """Variables become views of one flat tensor, data come from a `DataLoader`."""

    name = "torch"

    def group(self, rule: UpdateRule, box: Box) -> Group:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return group_of(rule, detect(), device)

    def vectors(self, variables: Sequence[ModelVariable], group: Group) -> tuple[list[Vector], list[list[str]]]:
        shared = [SharedTensor(name=one.path, tensor=one.variable.value, trainable=one.trainable) for one in variables]
        check_dtypes(shared)
        return list(flatten(shared, cast("TorchGroup", group))), [[one.name, one.text] for one in shared]

    def data(self, feed: Prefetch, load: Callable[[Any], tuple[Any, ...]]) -> Any:
        return DataLoader(_Batches(feed, load), batch_size=None)

    def averaged(self, apply: Callable[..., Any], group: Group, purpose: str) -> Callable[..., Any]:
        members = cast("TorchGroup", group)

        @torch.no_grad()
        def average(gradients: Sequence[Any]) -> list[Any]:
            there = [gradient for gradient in gradients if gradient is not None]
            flat = torch.cat([gradient.reshape(-1) for gradient in there])
            members.average(flat)
            parts = iter(torch.split(flat, [gradient.numel() for gradient in there]))
            return [None if gradient is None else next(parts).view(gradient.shape) for gradient in gradients]

        def averaged(gradients: Sequence[Any], trainable_variables: Any = None) -> Any:
            return apply(average(gradients), trainable_variables)

        return averaged


class _Batches(IterableDataset[Any]):
    """Every iteration is a pass over the feed."""

    def __init__(self, feed: Prefetch, load: Callable[[Any], tuple[Any, ...]]) -> None:
        self._feed = feed
        self._load = load

    def __iter__(self) -> Iterator[Any]:
        return map(self._load, self._feed.batches())
