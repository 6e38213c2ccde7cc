"""A worker's computing: real gradients, at the pace of a GPU, which leaves the processor alone meanwhile."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from bench.workers.model import make_model

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.cluster.case import Case

LAYERS = 16
SNAPSHOT_SECONDS = 5.0
"""Time between the copies of weights of a case with an accuracy."""
FORWARD = 1 / 3
"""Share of a step; the backward pass computes about twice as much."""


class Pace:
    """Where a step should be by now: `wait` sleeps until a share of the step is over."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.start = time.monotonic()

    def begin(self) -> None:
        """A step begins."""
        self.start = time.monotonic()

    def wait(self, share: float) -> None:
        """Sleep until ``share`` of the step's time is over; not at all if it is."""
        left = self.start + share * self.seconds - time.monotonic()
        if left > 0:
            time.sleep(left)


class _Pad(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: torch.Tensor, pace: Pace, ahead: float, back: float) -> torch.Tensor:
        context.pace, context.back = pace, back
        pace.wait(ahead)
        return x.view_as(x)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> Any:
        context.pace.wait(context.back)
        return gradients[0], None, None, None


class Padded(nn.Module):
    """A stack of layers that takes as long as a GPU would: each layer its share of the step, there and back.

    Gradients are ready one layer after the other all through the backward pass, as they are on a GPU, so that whoever
    sends them while others are computed can do so. With ``pace.seconds`` 0 nothing is padded.
    """

    def __init__(self, layers: nn.Sequential, pace: Pace, weights: list[int] | None = None) -> None:
        super().__init__()
        self.layers = layers
        self.pace = pace
        shares = np.cumsum([0.0, *(weights or [1] * len(layers))])
        self._shares = (shares / shares[-1]).tolist()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for index, layer in enumerate(self.layers):
            before, after = self._shares[index], self._shares[index + 1]
            # back comes first what is behind: with this layer, all but what is before it will be done
            x = _Pad.apply(layer(x), self.pace, FORWARD * after, 1 - (1 - FORWARD) * before)  # type: ignore[no-untyped-call]
        return x


def cnn() -> nn.Sequential:
    """0.83 MB of weights for pictures of 28 x 28."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Flatten(), nn.Linear(32 * 7 * 7, 128), nn.ReLU()),
        nn.Linear(128, 10),
    )


class _Rows(nn.Module):
    """The rows of a picture, one after the other, through an LSTM."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(28, hidden, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        last: torch.Tensor = self.lstm(x.squeeze(1))[0][:, -1]
        return last


def rnn() -> nn.Sequential:
    """0.33 MB of weights."""
    return nn.Sequential(_Rows(128), nn.Linear(128, 10))


def make(case: Case, rank: int) -> Padded:
    """The model of a case, the same for every rank, at this rank's pace."""
    torch.manual_seed(0)
    pace = Pace(case.step_of(rank))
    if case.model == "dense":
        return Padded(make_model(case.nbytes, LAYERS), pace)
    return Padded(cnn() if case.model == "cnn" else rnn(), pace)


def optimizer_of(case: Case, model: nn.Module) -> torch.optim.Optimizer:
    """Of a case, for all parameters."""
    if case.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), lr=case.learning_rate)
    return torch.optim.SGD(model.parameters(), lr=case.learning_rate, momentum=case.momentum)


def batches(case: Case, rank: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches without end: of Fashion-MNIST, each worker with an order of its own."""
    if case.model == "dense":
        width = round((case.nbytes / 4 / LAYERS) ** 0.5)
        while True:
            yield torch.full((1, width), 1e-3), torch.zeros(1, dtype=torch.int64)
    images, labels = pictures(train=True)
    generator = np.random.default_rng([1, rank])
    while True:
        order = generator.permutation(len(images))
        for start in range(0, len(order) - case.batch + 1, case.batch):
            chosen = torch.from_numpy(order[start : start + case.batch])
            yield images[chosen].float().div_(255).unsqueeze_(1), labels[chosen]


def pictures(*, train: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Fashion-MNIST: (images [samples, 28, 28] uint8, labels int64)."""
    from modum.data import fashion_mnist

    data = fashion_mnist()
    images, labels = (data.train_images, data.train_labels) if train else (data.test_images, data.test_labels)
    return torch.from_numpy(images), torch.from_numpy(labels)


def loss_of(case: Case, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """What is trained for."""
    return outputs.square().mean() if case.model == "dense" else nn.functional.cross_entropy(outputs, labels)


def accuracy(model: Padded) -> float:
    """On all test pictures, at full speed."""
    images, labels = pictures(train=False)
    pace, model.pace.seconds = model.pace.seconds, 0.0
    right = 0
    with torch.no_grad():
        for start in range(0, len(images), 1000):
            outputs = model(images[start : start + 1000].float().div_(255).unsqueeze_(1))
            right += int((outputs.argmax(1) == labels[start : start + 1000]).sum())
    model.pace.seconds = pace
    return right / len(images)


class Snapshots:
    """Weights of the first worker that are kept now and then, to be tested afterwards, if the case has an accuracy."""

    def __init__(self, case: Case, rank: int) -> None:
        self._folder = Path(os.environ["BENCH_FOLDER"])
        self._pause = SNAPSHOT_SECONDS if case.accuracy is not None and rank == 0 else float("inf")
        self._saved = time.monotonic()

    def due(self) -> bool:
        """Whether it is time to `save` again."""
        return time.monotonic() - self._saved >= self._pause

    def save(self, model: Padded) -> None:
        """Keep a copy of the weights."""
        self._saved = time.monotonic()
        save(self._folder, model)


def save(folder: Path, model: Padded) -> None:
    """Put the weights, with the time, where the cluster looks for them."""
    file = folder / f"{time.monotonic():.3f}.weights"
    torch.save(model.layers.state_dict(), file.with_suffix(".part"))
    file.with_suffix(".part").rename(file)
