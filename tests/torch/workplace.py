"""Averagers of several workers in one process."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from modum.torch import Averager

Make = Callable[..., Averager]


def sgd(model: nn.Module, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), **{"lr": 0.1, **options})


def train(model: nn.Module, optimizer: torch.optim.Optimizer, batch: torch.Tensor) -> None:
    optimizer.zero_grad()
    model(batch).square().mean().backward()
    optimizer.step()
