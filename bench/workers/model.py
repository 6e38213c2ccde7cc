"""A model of a given size, and its steps."""

import torch
from torch import nn


def make_model(nbytes: int, layers: int) -> nn.Sequential:
    """Square linear layers that have about `nbytes` of float32 weights together."""
    width = max(1, round((nbytes / 4 / layers) ** 0.5))
    return nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(layers)))


def make_batch(model: nn.Sequential, size: int) -> torch.Tensor:
    """A batch that the first layer takes."""
    first = model[0]
    assert isinstance(first, nn.Linear)
    return torch.ones(size, first.in_features)


def weight_bytes(model: nn.Module) -> int:
    """Bytes of all weights."""
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())


def train_step(model: nn.Sequential, optimizer: torch.optim.Optimizer, batch: torch.Tensor) -> None:
    """Forward and backward, and the optimizer's step."""
    optimizer.zero_grad()
    model(batch).square().mean().backward()
    optimizer.step()
