"""The seam between a pipeline and a framework: what one stage computes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Stage", "Weight"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Weight:
    """The current value of one array of a stage's weights, in host memory."""

    name: str
    """Unique in the whole model."""
    array: Array
    """May be a view of the weight itself: copy it to keep it."""
    trainable: bool
    """Whether gradients move it; false for the statistics of a batch normalization."""


class Stage(ABC):
    """Consecutive layers of a model, their weights and their optimizer, on one worker.

    Micro-batches are numbered from 0 on. `forward` and `backward` are called once for each, in the same order; between
    them, forward passes of later micro-batches and updates may come. What crosses a cut is a list of arrays,
    whose meaning is up to the stages on both sides.
    """

    index: int
    """Number of this stage, from 0."""
    stages: int
    """Number of stages."""
    layers: tuple[str, ...]
    """Names of this stage's layers."""
    framework: str
    """The framework that computes it, such as "torch"; must be the same in all workers."""
    results: tuple[str, ...]
    """What the last stage reports for each micro-batch: "loss" first, then the metrics' names. Known at the latest
    after its first `forward` or `evaluate`; the other stages learn it from its messages.
    """

    stash = True
    """Whether updates may come between `forward` and `backward` of a micro-batch; the pipeline sets it."""

    @property
    def first(self) -> bool:
        """Whether this stage takes the model's inputs."""
        return self.index == 0

    @property
    def last(self) -> bool:
        """Whether this stage computes the loss."""
        return self.index == self.stages - 1

    @abstractmethod
    def forward(self, number: int, inputs: Any, labels: Any = None, weight: float = 1.0) -> Sequence[Array]:
        """Compute the outputs of a micro-batch, for training, with the current weights.

        These weights count for `backward(number)` too, however `update` moves them in between (weight stashing:
        Narayanan et al., PipeDream, SOSP 2019, section 3.3).

        Args:
            number: number of the micro-batch.
            inputs: the arrays that the stage before returned; for the first stage the model's inputs, in any form that
                the user provides.
            labels: for the last stage, as the user provides them.
            weight: the micro-batch's share of its batch, a factor on every loss before it is differentiated.

        Returns:
            The arrays for the next stage. The last stage returns `results` as one float64 array.
        """

    @abstractmethod
    def backward(self, number: int, gradients: Sequence[Array]) -> Sequence[Array]:
        """Compute the gradients of the inputs, and accumulate those of the weights for `update`.

        Args:
            number: number of the micro-batch.
            gradients: of the outputs that have some, as the next stage's `backward` returned them; empty for the last
                stage.

        Returns:
            The gradients for the stage before; empty for the first stage.
        """

    @abstractmethod
    def update(self) -> None:
        """Take one step of the optimizer with the gradients since the last one."""

    @abstractmethod
    def evaluate(self, inputs: Any, labels: Any = None) -> Sequence[Array]:
        """Compute the outputs for inference, without keeping or changing any state."""

    @property
    @abstractmethod
    def versions(self) -> int:
        """Versions of the weights that this stage holds now, the newest one included."""

    @abstractmethod
    def weights(self) -> list[Weight]:
        """Return all weights that the saved model needs from this stage, always in the same order."""

    @abstractmethod
    def assign(self, weights: Mapping[str, Array]) -> None:
        """Set weights by name; others do not change."""

    @abstractmethod
    def assemble(self, weights: Mapping[str, Array]) -> Any:
        """Return the whole model, in the framework's own form, from the weights of all stages."""
