"""Time each layer's forward and backward pass, as `caffe time` does."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from modum.caffe.graph import Step
    from modum.caffe.net import Net

__all__ = ["time_net"]

_log = logging.getLogger(__name__)

Run = tuple["Step", list["Tensor"], list["Tensor"]]


def time_net(net: Net, iterations: int) -> dict[str, tuple[float, float]]:
    """Run every layer by itself, forward and backward; log and return mean milliseconds by layer.

    Every layer's bottoms are detached from the layers before, so that its backward pass can be timed alone.
    """
    _log.info("Performing Forward")
    _log.info("Initial loss: %g", float(net.forward_backward()))
    _log.info("Performing Backward")
    _log.info("*** Benchmark begins ***")
    _log.info("Testing for %d iterations.", iterations)
    forward: dict[str, float] = defaultdict(float)
    backward: dict[str, float] = defaultdict(float)
    start = _now(net)
    for iteration in range(iterations):
        begin = _now(net)
        runs = _forward(net, forward)
        _backward(net, runs, backward)
        _log.info("Iteration: %d forward-backward time: %g ms.", iteration + 1, 1e3 * (_now(net) - begin))
    total = _now(net) - start
    times = {
        step.name: (1e3 * forward[step.name] / iterations, 1e3 * backward[step.name] / iterations) for step in net.steps
    }
    _log.info("Average time per layer: ")
    for name, (ahead, back) in times.items():
        _log.info("%10s\tforward: %g ms.", name, ahead)
        _log.info("%10s\tbackward: %g ms.", name, back)
    _log.info("Average Forward pass: %g ms.", sum(ahead for ahead, _ in times.values()))
    _log.info("Average Backward pass: %g ms.", sum(back for _, back in times.values()))
    _log.info("Average Forward-Backward: %g ms.", 1e3 * total / iterations)
    _log.info("Total Time: %g ms.", 1e3 * total)
    _log.info("*** Benchmark ends ***")
    return times


def _forward(net: Net, seconds: dict[str, float]) -> list[Run]:
    made: dict[int, Tensor] = {}
    runs: list[Run] = []
    for step in net.steps:
        bottoms = [made[number].detach().requires_grad_(made[number].requires_grad) for number in step.bottoms]
        start = _now(net)
        tops = net.run_step(step, bottoms)
        seconds[step.name] += _now(net) - start
        made.update(zip(step.tops, tops, strict=True))
        runs.append((step, bottoms, tops))
    return runs


def _backward(net: Net, runs: list[Run], seconds: dict[str, float]) -> None:
    gradients: dict[int, Tensor] = {}
    for step, bottoms, tops in reversed(runs):
        weights = dict(step.losses)
        seeds = [
            gradients.pop(number, torch.zeros_like(top)) + weights.get(position, 0.0)
            for position, (number, top) in enumerate(zip(step.tops, tops, strict=True))
        ]
        pairs = [(top, seed) for top, seed in zip(tops, seeds, strict=True) if top.requires_grad]
        start = _now(net)
        if pairs:
            torch.autograd.backward([top for top, _ in pairs], [seed for _, seed in pairs])
        seconds[step.name] += _now(net) - start
        for number, bottom in zip(step.bottoms, bottoms, strict=True):
            if bottom.grad is not None:
                gradients[number] = gradients[number] + bottom.grad if number in gradients else bottom.grad


def _now(net: Net) -> float:
    if net.device.type == "cuda":
        torch.cuda.synchronize(net.device)
    return time.perf_counter()
