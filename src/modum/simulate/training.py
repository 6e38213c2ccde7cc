"""Compute real gradients for virtual workers: a small classifier in NumPy, trained on generated data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]

FEATURES, HIDDEN, CLASSES = 16, 64, 5
TEACHER_HIDDEN = 6
TRAINING, TEST = 20_000, 2_000
BATCH = 32
LEARNING_RATE = 0.2
NOISE = 0.1
"""Standard deviation of the noise on the teacher's outputs, so that no student gets everything right."""


class Task:
    """A teacher network labels random points; a student with more hidden units learns to do the same.

    The student is `softmax(relu(x A + a) B + b)`; its weights are one float32 vector.
    """

    def __init__(self, seed: int) -> None:
        generator = np.random.default_rng([seed, 1])
        points = generator.standard_normal((TRAINING + TEST, FEATURES), np.float32)
        first = generator.standard_normal((FEATURES, TEACHER_HIDDEN), np.float32)
        second = generator.standard_normal((TEACHER_HIDDEN, CLASSES), np.float32)
        scores = np.maximum(points @ first, 0) @ second
        scores = (scores - scores.mean(axis=0)) / scores.std(axis=0)
        labels = (scores + NOISE * generator.standard_normal(scores.shape, np.float32)).argmax(axis=1)
        self.points, self.test_points = points[:TRAINING], points[TRAINING:]
        self.labels, self.test_labels = labels[:TRAINING], labels[TRAINING:]
        scale = np.sqrt(np.float32(2 / FEATURES))
        self.shapes = ((FEATURES, HIDDEN), (HIDDEN,), (HIDDEN, CLASSES), (CLASSES,))
        starts = [generator.standard_normal(shape, np.float32) * scale * (len(shape) > 1) for shape in self.shapes]
        self.start: Vector = np.concatenate([start.ravel() for start in starts]).astype(np.float32)

    def gradient(self, weights: Vector, batch: NDArray[np.int64]) -> Vector:
        """Return the gradient of the mean cross-entropy of a batch.

        Args:
            weights: float32, 1-D.
            batch: indices of training samples, 1-D.

        Returns:
            float32, of the shape of `weights`.
        """
        first, bias, second, last = self.parts(weights)
        x, count = self.points[batch], len(batch)
        hidden = x @ first + bias
        np.maximum(hidden, 0, out=hidden)
        delta: NDArray[np.float32] = _softmax(hidden @ second + last)
        delta[np.arange(count), self.labels[batch]] -= 1
        delta /= count
        gradient = np.empty_like(weights)
        to_first, to_bias, to_second, to_last = self.parts(gradient)
        np.matmul(hidden.T, delta, out=to_second)
        delta.sum(axis=0, out=to_last)
        back = (delta @ second.T) * (hidden > 0)
        np.matmul(x.T, back, out=to_first)
        back.sum(axis=0, out=to_bias)
        return gradient

    def accuracy(self, weights: Vector) -> float:
        """Return the fraction of test samples that are classified correctly, 0 to 1."""
        first, bias, second, last = self.parts(weights)
        scores = np.maximum(self.test_points @ first + bias, 0) @ second + last
        return float((scores.argmax(axis=1) == self.test_labels).mean())

    def parts(self, vector: Vector) -> list[NDArray[np.float32]]:
        """Return the matrices A, a, B and b as views into a vector of weights."""
        parts, start = [], 0
        for shape in self.shapes:
            end = start + int(np.prod(shape))
            parts.append(vector[start:end].reshape(shape))
            start = end
        return parts


def _softmax(scores: NDArray[Any]) -> NDArray[Any]:
    scores -= scores.max(axis=1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=1, keepdims=True)
    return scores


@dataclass(slots=True)
class Curve:
    """Accuracy of the shared weights on the test samples, over virtual seconds."""

    seconds: array[float] = field(default_factory=lambda: array("d"))
    accuracy: array[float] = field(default_factory=lambda: array("d"))

    def until(self, accuracy: float) -> float | None:
        """Return when an accuracy was first reached, in virtual seconds; None if never."""
        return next((t for t, value in zip(self.seconds, self.accuracy, strict=True) if value >= accuracy), None)


class Moment(NamedTuple):
    """When a step is done, as far as the learning rate may depend on it."""

    progress: float
    """How much of the job's steps were handed out before, 0 to 1."""
    step: int
    """Steps that the group has done before."""
    groups: int
    """Groups alive, as the group last counted them."""


class Learner(ABC):
    """What one group keeps from step to step, such as its optimizer's momentum."""

    @abstractmethod
    def step(self, moment: Moment) -> None:
        """Take a step with the mean gradient of the group's workers, each with its own batch, in place."""


class Trainer(ABC):
    """What virtual workers train: the shared weights, and how they are made better.

    Args:
        shared: the shared weights; float32, 1-D.
        statistics: how many elements at their end are statistics, which are mixed and not trained.

    Attributes:
        shared: as given.
        statistics: as given.
        curve: accuracy of the shared weights so far.
    """

    def __init__(self, shared: Vector, statistics: int = 0) -> None:
        self.shared = shared
        self.statistics = statistics
        self.curve = Curve()

    @abstractmethod
    def learner(self, weights: Vector, workers: int) -> Learner:
        """Return a group's learner, which changes `weights` in place; it has so many workers."""

    @abstractmethod
    def accuracy(self) -> float:
        """Return how good the shared weights are; larger is better."""

    def evaluate(self, now: float) -> None:
        """Note the accuracy of the shared weights at a virtual time."""
        self.curve.seconds.append(now)
        self.curve.accuracy.append(self.accuracy())


class Classifier(Trainer):
    """Trains the small classifier of `Task` by plain SGD.

    Args:
        seed: seed of the task, the initial weights and the batches.

    Attributes:
        task: the task to learn.
    """

    def __init__(self, seed: int) -> None:
        self.task = Task(seed)
        super().__init__(self.task.start.copy())
        self._generator = np.random.default_rng([seed, 2])

    def learner(self, weights: Vector, workers: int) -> Learner:
        """See `Trainer`."""
        return _Descending(self.task, weights, workers, self._generator)

    def accuracy(self) -> float:
        """Return the fraction of test samples that are classified correctly, 0 to 1."""
        return self.task.accuracy(self.shared)


class _Descending(Learner):
    """Keeps nothing."""

    def __init__(self, task: Task, weights: Vector, workers: int, generator: np.random.Generator) -> None:
        self._task = task
        self._weights = weights
        self._workers = workers
        self._generator = generator

    def step(self, moment: Moment) -> None:
        batch = self._generator.integers(TRAINING, size=BATCH * self._workers)
        self._weights -= LEARNING_RATE * self._task.gradient(self._weights, batch)
