"""Pipelines in threads of this process, with a real box between them, and stages in plain NumPy."""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modum.pipeline import Stage, Weight

Floats = NDArray[np.float32]


class DenseStage(Stage):
    """y = tanh(x W), and behind the last stage the loss mean((y - label)^2) / 2; plain gradient descent."""

    results = ("loss", "error")
    framework = "numpy"

    def __init__(self, index: int, weights: Sequence[Floats], learning_rate: float = 0.1) -> None:
        self.index = index
        self.stages = len(weights)
        self.layers = (f"dense{index}",)
        self.W = weights[index].copy()
        self.rate = np.float32(learning_rate)
        self.gradient = np.zeros_like(self.W)
        self.kept: dict[int, tuple[Floats, ...]] = {}
        self.order: list[str] = []

    def forward(self, number: int, inputs: Any, labels: Any = None, weight: float = 1.0) -> list[NDArray[Any]]:
        self.order.append(f"F{number}")
        x = inputs if self.first else inputs[0]
        y = np.tanh(x @ self.W)
        self.kept[number] = (x, self.W, y, (y - labels) * np.float32(weight / y.size) if self.last else y)
        return self._results(y, labels) if self.last else [y]

    def backward(self, number: int, gradients: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        self.order.append(f"B{number}")
        x, W, y, dy = self.kept.pop(number)
        if not self.last:
            (dy,) = gradients
        dz = dy * (1 - y * y)
        self.gradient += x.T @ dz
        return [] if self.first else [dz @ W.T]

    def update(self) -> None:
        self.order.append("U")
        self.W = self.W - self.rate * self.gradient
        self.gradient = np.zeros_like(self.W)

    def evaluate(self, inputs: Any, labels: Any = None) -> list[NDArray[Any]]:
        y = np.tanh((inputs if self.first else inputs[0]) @ self.W)
        return self._results(y, labels) if self.last else [y]

    @property
    def versions(self) -> int:
        return len({id(self.W), *(id(kept[1]) for kept in self.kept.values())})

    def weights(self) -> list[Weight]:
        return [Weight(name=f"dense{self.index}/W", array=self.W, trainable=True)]

    def assign(self, weights: Mapping[str, NDArray[Any]]) -> None:
        self.W = weights[f"dense{self.index}/W"].copy()

    def assemble(self, weights: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return dict(weights)

    def _results(self, y: Floats, labels: Floats) -> list[NDArray[Any]]:
        return [np.array([np.square(y - labels).mean() / 2, np.abs(y - labels).mean()])]


def network(stages: int, width: int = 5, seed: int = 0) -> list[Floats]:
    """The weights of every stage."""
    random = np.random.default_rng(seed)
    return [random.standard_normal((width, width)).astype(np.float32) for _ in range(stages)]


def run_workers(worker: Callable[..., Any], *arguments: Iterable[Any], seconds: float = 60.0) -> list[Any]:
    """Run ``worker`` in threads of their own, as often as there are values for its arguments; returns what each
    returned or raised.
    """
    calls = list(zip(*arguments, strict=True))
    outcomes: list[Any] = [None] * len(calls)

    def run(number: int) -> None:
        try:
            outcomes[number] = worker(*calls[number])
        except BaseException as error:  # noqa: BLE001 - for the test to look at
            outcomes[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds)
        assert not thread.is_alive(), "a worker hangs"
    return outcomes


def unless_raised(outcomes: Sequence[Any]) -> list[Any]:
    """The outcomes, if no worker raised."""
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return list(outcomes)
