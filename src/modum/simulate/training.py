"""Real gradients for virtual workers: a small classifier in NumPy, trained on generated data."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from modum.rules.elastic import Elastic

if TYPE_CHECKING:
    from modum.simulate.scenario import Scenario

Vector = NDArray[np.float32]

FEATURES, HIDDEN, CLASSES = 16, 64, 5
TEACHER_HIDDEN = 6
TRAINING, TEST = 20_000, 2_000
BATCH = 32
LEARNING_RATE = 0.2
NOISE = 0.1
"""Standard deviation of what is added to the teacher's outputs: no student gets everything right."""


class Task:
    """A teacher network labels random points; a student with more hidden units learns to do the same.

    The student is ``softmax(relu(x A + a) B + b)``; its weights are one float32 vector.
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
        """Of the mean cross-entropy of the training samples ``batch``; float32, as long as ``weights``."""
        first, bias, second, last = self._parts(weights)
        x, count = self.points[batch], len(batch)
        hidden = x @ first + bias
        np.maximum(hidden, 0, out=hidden)
        delta: NDArray[np.float32] = _softmax(hidden @ second + last)
        delta[np.arange(count), self.labels[batch]] -= 1
        delta /= count
        gradient = np.empty_like(weights)
        to_first, to_bias, to_second, to_last = self._parts(gradient)
        np.matmul(hidden.T, delta, out=to_second)
        delta.sum(axis=0, out=to_last)
        back = (delta @ second.T) * (hidden > 0)
        np.matmul(x.T, back, out=to_first)
        back.sum(axis=0, out=to_bias)
        return gradient

    def accuracy(self, weights: Vector) -> float:
        """Share of the test samples that are classified rightly."""
        first, bias, second, last = self._parts(weights)
        scores = np.maximum(self.test_points @ first + bias, 0) @ second + last
        return float((scores.argmax(axis=1) == self.test_labels).mean())

    def _parts(self, vector: Vector) -> list[NDArray[np.float32]]:
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
    """Accuracy on the test samples, of the shared weights, over virtual seconds."""

    seconds: array[float] = field(default_factory=lambda: array("d"))
    accuracy: array[float] = field(default_factory=lambda: array("d"))

    def until(self, accuracy: float) -> float | None:
        """When ``accuracy`` was reached first; None if never."""
        return next((t for t, value in zip(self.seconds, self.accuracy, strict=True) if value >= accuracy), None)


class Trainer:
    """The weights of all groups and the shared ones, moved as the box and `modum.averaging` move them."""

    def __init__(self, scenario: Scenario) -> None:
        cluster = scenario.cluster
        self.task = Task(scenario.seed)
        self.shared = self.task.start.copy()
        self.curve = Curve()
        self._scenario = scenario
        self._rate = Elastic().rate
        self._members = cluster.group_size
        self._generator = np.random.default_rng([scenario.seed, 2])
        self._weights = np.tile(self.shared, (cluster.groups, 1))
        self._staging = np.zeros_like(self._weights)
        self._base = self._weights.copy()
        """Downpour: the weights without what was learned since the last snapshot."""

    def join(self, place: int) -> None:
        """A group begins with the shared weights."""
        self._weights[place] = self.shared
        self._base[place] = self.shared

    def step(self, place: int, steps: int) -> None:
        """Local SGD steps; a group's gradient is the mean of its members', each with a batch of its own."""
        for _ in range(steps):
            batch = self._generator.integers(TRAINING, size=BATCH * self._members)
            self._weights[place] -= LEARNING_RATE * self.task.gradient(self._weights[place], batch)

    def step_together(self, workers: int) -> None:
        """One synchronous step of all workers, on the shared weights."""
        batch = self._generator.integers(TRAINING, size=BATCH * workers)
        self.shared -= LEARNING_RATE * self.task.gradient(self.shared, batch)

    def snapshot(self, place: int) -> None:
        self._staging[place] = self._weights[place]
        if self._scenario.rule == "downpour":
            self._staging[place] -= self._base[place]
            self._base[place] = self._weights[place]

    def combine(self, place: int, groups: int) -> None:
        """What the server does with the snapshot; ``groups`` are alive."""
        staging = self._staging[place]
        if self._scenario.rule == "elastic":
            staging -= self.shared
            staging *= np.float32(self._rate(groups))
        self.shared += staging

    def fetch(self, place: int) -> None:
        """Downpour's read: the correction by which the group's weights become the shared ones."""
        np.subtract(self._base[place], self.shared, out=self._staging[place])

    def apply(self, place: int) -> None:
        """Subtract the correction."""
        self._weights[place] -= self._staging[place]
        if self._scenario.rule == "downpour":
            self._base[place] -= self._staging[place]

    def evaluate(self, now: float) -> None:
        """Note the accuracy of the shared weights."""
        self.curve.seconds.append(now)
        self.curve.accuracy.append(self.task.accuracy(self.shared))
