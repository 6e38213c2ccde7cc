"""What the rules are compared on: three real models, small enough for hundreds of runs on two cores."""

import math
from abc import abstractmethod
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from modum.averaging import OptimizerKind, choose
from modum.data import Text, fashion_mnist, shakespeare
from modum.simulate import Learner, Moment, Trainer

Weights = NDArray[np.float32]

WARMUP = 0.05
"""Part of the job over which the factor on the learning rate grows from 1."""


class Task(Trainer):
    """A model, its data, its optimizer and its schedule, for workers in virtual time.

    All learners draw their batches from one order of the data, as workers do from the shared pool of samples.

    Args:
        seed: of the initial weights and of the order of the data.
        scale: factor on the learning rate, as `modum.torch.Averager` takes it; a number counts for a synchronous job,
            too. With "auto" the factor and `rule` are those that `Averager` chooses for the optimizer.
    """

    name: str
    unit: str
    """Of `accuracy`, for tables."""
    batch: int
    """Samples of a worker's step."""
    steps: int
    """Steps of all workers together."""
    rate: float
    """Learning rate that was best for one worker, of a few that are about a factor of two apart."""

    def __init__(self, seed: int, scale: float | str | None = None) -> None:
        torch.manual_seed(seed)
        model = self.model()
        self.rule, self.scale = choose(OptimizerKind.of(self.optimizer(model)), scale=scale)  # type: ignore[arg-type]  # from a command line
        self._sizes = [parameter.numel() for parameter in model.parameters()]
        flat = [parameter.detach().reshape(-1) for parameter in model.parameters()]
        kept = [buffer.reshape(-1) for buffer in _statistics(model)]
        super().__init__(torch.cat(flat + kept).numpy(), sum(each.numel() for each in kept))
        self._random = np.random.default_rng([seed, 3])
        self._order: NDArray[np.int64] = np.empty(0, np.int64)

    def evaluate(self, now: float) -> None:
        """Keep no curve: to measure it would take as long as the training."""

    def learner(self, weights: Weights, workers: int) -> Learner:
        """See `Trainer`."""
        return _Optimizing(self, self.bound(weights), workers)

    def bound(self, weights: Weights) -> nn.Module:
        """Return a model whose parameters and statistics lie in `weights`."""
        model = self.model()
        rest = torch.from_numpy(weights)
        for tensor in (*model.parameters(), *_statistics(model)):
            part, rest = rest[: tensor.numel()], rest[tensor.numel() :]
            tensor.data = part.view(tensor.shape)
        return model

    def take(self, count: int) -> Tensor:
        """Return the numbers of the next samples of the pool."""
        while len(self._order) < count:
            self._order = np.concatenate([self._order, self._random.permutation(self.samples)])
        taken, self._order = self._order[:count], self._order[count:]
        return torch.from_numpy(taken)

    @property
    @abstractmethod
    def samples(self) -> int:
        """How many samples an epoch has."""

    @abstractmethod
    def model(self) -> nn.Module:
        """Return a new model."""

    @abstractmethod
    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer of a worker, at the learning rate `rate`."""

    @abstractmethod
    def schedule(self, progress: float) -> float:
        """Return the factor on the learning rate at a progress from 0 to 1."""

    @abstractmethod
    def loss(self, model: nn.Module, chosen: Tensor) -> Tensor:
        """Return the mean loss of some samples."""


class _Optimizing(Learner):
    """One group's model and optimizer."""

    def __init__(self, task: Task, model: nn.Module, workers: int) -> None:
        self._task = task
        self._model = model
        self._count = task.batch * workers
        self._optimizer = task.optimizer(model)
        self._steps = 0

    def step(self, moment: Moment) -> None:
        task = self._task
        factor = task.scale.factor(self._steps, moment.groups)
        self._steps += 1
        if not task.scale.warmup_steps:
            factor = 1 + (factor - 1) * min(1.0, moment.progress / WARMUP)
        for group in self._optimizer.param_groups:
            group["lr"] = task.rate * factor * task.schedule(moment.progress)
        self._optimizer.zero_grad()
        task.loss(self._model, task.take(self._count)).backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()


def _statistics(model: nn.Module) -> list[Tensor]:
    return [buffer for buffer in model.buffers() if buffer.is_floating_point()]


@cache
def _pictures() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    data = fashion_mnist()
    images = [torch.from_numpy(each).unsqueeze(1).float() for each in (data.train_images, data.test_images)]
    train, test = ((each / 255 - 0.286) / 0.353 for each in images)
    return train, torch.from_numpy(data.train_labels), test, torch.from_numpy(data.test_labels)


class Cnn(Task):
    """Two convolutions with batch normalization on Fashion-MNIST; SGD with momentum, a tenth of the rate at the end."""

    name, unit = "cnn", "%"
    batch, steps, rate = 32, 7500, 0.05

    def __init__(self, seed: int, scale: float | str | None = None) -> None:
        self._train, self._labels, self._test, self._truth = _pictures()
        super().__init__(seed, scale)

    @property
    def samples(self) -> int:
        return len(self._train)

    def model(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 7 * 7, 10),
        )

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), self.rate, momentum=0.9, weight_decay=5e-4)

    def schedule(self, progress: float) -> float:
        return 1.0 if progress < 0.8 else 0.1

    def loss(self, model: nn.Module, chosen: Tensor) -> Tensor:
        """Return the mean loss; each worker's batch is normalized by itself, as under `DistributedDataParallel`."""
        batches = torch.split(chosen, self.batch)
        return torch.stack([functional.cross_entropy(model(self._train[b]), self._labels[b]) for b in batches]).mean()

    @torch.no_grad()
    def accuracy(self) -> float:
        """Return the share of the test pictures that are labelled rightly, in percent."""
        model = self.bound(self.shared).eval()
        guesses = torch.cat([model(some).argmax(1) for some in torch.split(self._test, 1000)])
        return 100 * (guesses == self._truth).float().mean().item()


class Characters(Task):
    """The next character of Shakespeare; the unit is the negative loss in nats, so that more is better."""

    unit = "nats"
    length: int
    tests = 512

    def __init__(self, seed: int, scale: float | str | None = None) -> None:
        text = _text()
        self.characters = len(text.characters)
        self._train, self._test = torch.from_numpy(text.train), torch.from_numpy(text.test)
        starts = np.random.default_rng(5).integers(0, len(text.test) - self.length - 1, self.tests)
        self._starts = torch.from_numpy(starts)
        super().__init__(seed, scale)

    @property
    def samples(self) -> int:
        return len(self._train) - self.length - 1

    def schedule(self, progress: float) -> float:
        return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    def loss(self, model: nn.Module, chosen: Tensor) -> Tensor:
        return self._loss(model, self._train, chosen)

    @torch.no_grad()
    def accuracy(self) -> float:
        """Return the negative mean loss of windows of the test text, in nats for each character."""
        model = self.bound(self.shared).eval()
        return -float(np.mean([self._loss(model, self._test, some).item() for some in torch.split(self._starts, 64)]))

    def _loss(self, model: nn.Module, text: Tensor, starts: Tensor) -> Tensor:
        window = text[starts[:, None] + torch.arange(self.length + 1)]
        return functional.cross_entropy(model(window[:, :-1]).flatten(0, 1), window[:, 1:].flatten())


@cache
def _text() -> Text:
    return shakespeare()


class Lstm(Characters):
    """An LSTM; Adam, cosine."""

    name = "lstm"
    batch, steps, rate, length = 16, 4000, 1e-2, 32

    def model(self) -> nn.Module:
        return _Recurrent(self.characters)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), self.rate)


class _Recurrent(nn.Module):
    def __init__(self, characters: int, width: int = 96) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, 32)
        self.lstm = nn.LSTM(32, width, batch_first=True)
        self.head = nn.Linear(width, characters)

    def forward(self, text: Tensor) -> Tensor:
        """Return scores [batch, time, characters]."""
        scores: Tensor = self.head(self.lstm(self.embedding(text))[0])
        return scores


class Gpt(Characters):
    """A GPT of 0.8 million parameters; AdamW, cosine."""

    name = "gpt"
    batch, steps, rate, length = 8, 8000, 1e-3, 64

    def model(self) -> nn.Module:
        return _Transformer(self.characters, self.length, width=128, blocks=4)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), self.rate, betas=(0.9, 0.95), weight_decay=0.1)


class TinyGpt(Gpt):
    """The same at 30,000 parameters, to look for what is worth a run of the large one."""

    name = "tiny"
    rate, length = 6e-3, 32

    def model(self) -> nn.Module:
        return _Transformer(self.characters, self.length, width=32, blocks=2)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.dense = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Attend, then transform each place by itself."""
        batch, time, width = x.shape
        q, k, v = self.queries(self.first(x)).view(batch, time, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = (
            functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(batch, time, width)
        )
        x = x + self.out(seen.reshape(batch, time, width))
        transformed: Tensor = x + self.dense(self.second(x))
        return transformed


class _Transformer(nn.Module):
    def __init__(self, characters: int, length: int, width: int, blocks: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, width)
        self.places = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.Sequential(*(_Block(width) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, characters, bias=False)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, text: Tensor) -> Tensor:
        """Return scores [batch, time, characters]."""
        scores: Tensor = self.head(self.norm(self.blocks(self.embedding(text) + self.places[: text.shape[1]])))
        return scores


TASKS: dict[str, type[Any]] = {task.name: task for task in (Cnn, Lstm, Gpt, TinyGpt)}
