"""Weights in a NumPy array, for simulations and for trying out a rule."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from modum.parameters.layout import FlatLayout, TensorSpec
from modum.parameters.vector import Vector, mixed

if TYPE_CHECKING:
    from modum.box import Buffer

__all__ = ["ArrayVector"]


class ArrayVector(Vector):
    """Weights in a NumPy array, of a worker that is its own group.

    Args:
        weights: float32, 1-D; changed in place.
        statistics: how many elements at the end are statistics, which are mixed and not trained.

    Attributes:
        weights: as given.
    """

    staging: NDArray[np.float32]

    def __init__(self, weights: NDArray[np.float32], statistics: int = 0) -> None:
        self.weights = weights
        learning = TensorSpec(name="weights", shape=(weights.size - statistics,), dtype="float32", trainable=True)
        others = TensorSpec(name="statistics", shape=(statistics,), dtype="float32", trainable=False)
        self.layout = FlatLayout([learning, others], alignment=1)
        self.staging = np.zeros_like(weights)
        self._sent = weights[self.trainable :].copy()
        self._saved: NDArray[np.float32] | None = None

    def check(self) -> None:
        """Do nothing: the array is never moved."""

    def snapshot(self) -> None:
        """Copy the weights into `staging`."""
        self.staging[:] = self.weights
        self._sent[:] = self.weights[self.trainable :]

    def arrived(self) -> None:
        """Do nothing: the copy is complete at once."""

    def subtract(self, rate: float) -> None:
        """Subtract the correction that is in `staging`; mix the statistics."""
        trainable = self.trainable
        self.weights[:trainable] -= self.staging[:trainable]
        statistics = self.weights[trainable:]
        statistics[:] = mixed(statistics, self._sent, rate, self.staging[trainable:])

    def read(self, buffer: "Buffer") -> None:
        """Replace the weights by the shared ones."""
        buffer.read(self.weights)

    def whole(self) -> NDArray[np.float32]:
        """Return the weights."""
        return self.weights

    def align(self) -> None:
        """Do nothing: a group of one is always aligned."""

    def save(self) -> None:
        """Keep a copy of the weights."""
        self._saved = self.weights.copy()

    def restore(self) -> None:
        """Restore the copy."""
        assert self._saved is not None, "restore without save"
        self.weights[:] = self._saved
        self._saved = None
