"""Blobs: the values of a net and their gradients, as NumPy arrays."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from modum.caffe.layers.base import Layer

__all__ = ["Activation", "Blob", "LayerView", "Weight"]

Array = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
LEGACY_AXES = 4


class Blob(ABC):
    """Data and gradient (`diff`) of a blob: float32 arrays of the same shape.

    On a CPU both are views: writing into them changes the net. On a GPU they are read-only copies;
    the inputs of a net are in host memory and always writable.
    """

    @property
    @abstractmethod
    def data(self) -> NDArray[np.float32]:
        """Values of the blob."""

    @property
    @abstractmethod
    def diff(self) -> NDArray[np.float32]:
        """Gradient of the loss with respect to the values, from the last backward pass."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""

    @abstractmethod
    def reshape(self, *shape: int) -> None:
        """Change the shape; the values become zero. Takes effect in other blobs with the next forward pass."""

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def num(self) -> int:
        """Length of the first of four axes."""
        return self._legacy(0)

    @property
    def channels(self) -> int:
        """Length of the second of four axes."""
        return self._legacy(1)

    @property
    def height(self) -> int:
        """Length of the third of four axes."""
        return self._legacy(2)

    @property
    def width(self) -> int:
        """Length of the last of four axes."""
        return self._legacy(3)

    def _legacy(self, axis: int) -> int:
        if len(self.shape) > LEGACY_AXES:
            raise ValueError(f"a blob of shape {self.shape} has more than {LEGACY_AXES} axes: use shape")
        return self.shape[axis] if axis < len(self.shape) else 1

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.shape}>"


class Weight(Blob):
    """A parameter of a layer.

    Args:
        layer: its layer, which may put another tensor in its place.
        index: its index among the layer's blobs.
    """

    def __init__(self, layer: Layer, index: int) -> None:
        self._layer = layer
        self._index = index

    @property
    def tensor(self) -> nn.Parameter:
        """The layer's own tensor."""
        parameter: nn.Parameter = self._layer.blobs[self._index]
        return parameter

    @property
    def data(self) -> NDArray[np.float32]:
        return as_array(self.tensor)

    @property
    def diff(self) -> NDArray[np.float32]:
        tensor = self.tensor
        if tensor.grad is None:
            tensor.grad = torch.zeros_like(tensor)
        return as_array(tensor.grad)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    def reshape(self, *shape: int) -> None:
        raise ValueError(f"a parameter keeps its shape {self.shape}: its layer's settings decide it")


class Activation(Blob):
    """A blob that layers make and read; its number is its place in the net's lists."""

    def __init__(self, values: list[Tensor | None], shapes: list[tuple[int, ...]], number: int) -> None:
        self._values = values
        self._shapes = shapes
        self._number = number
        self._diff: Tensor | None = None

    @property
    def tensor(self) -> Tensor:
        """The newest value, with its place in autograd's graph; zeros before the first forward pass."""
        value = self._values[self._number]
        if value is None:
            value = self._values[self._number] = torch.zeros(self._shapes[self._number])
        return value

    @property
    def data(self) -> NDArray[np.float32]:
        return as_array(self.tensor)

    @property
    def diff(self) -> NDArray[np.float32]:
        return as_array(self.gradient())

    @property
    def shape(self) -> tuple[int, ...]:
        value = self._values[self._number]
        return tuple(self._shapes[self._number] if value is None else value.shape)

    def reshape(self, *shape: int) -> None:
        if tuple(shape) != self.shape:
            self._values[self._number] = torch.zeros(shape)
            self._shapes[self._number] = tuple(shape)
            self._diff = None

    def gradient(self) -> Tensor:
        """Return the tensor behind `diff`: autograd's, once a backward pass has kept it; else a writable one."""
        tensor = self.tensor
        if self._diff is None or self._diff.shape != tensor.shape:
            self._diff = torch.zeros_like(tensor, requires_grad=False)
        return self._diff

    @property
    def has_gradient(self) -> bool:
        """Whether `diff` was requested, or left by a backward pass."""
        return self._diff is not None and self._diff.shape == self.tensor.shape

    def keep_gradient(self, gradient: Tensor | None) -> None:
        """Keep the gradient from a backward pass; None: none came here."""
        self._diff = gradient


class LayerView:
    """A layer with pycaffe's interface, `type` and `blobs`; other attributes are the layer's own."""

    def __init__(self, layer: Layer, blobs: list[Weight]) -> None:
        self.layer = layer
        self.type: str = layer.spec.type
        self.blobs = blobs

    def __getattr__(self, name: str) -> Any:
        return getattr(self.layer, name)

    def __repr__(self) -> str:
        return f"<{self.type} layer {self.layer.name!r}>"


def as_array(tensor: Tensor) -> NDArray[np.float32]:
    """Return a NumPy view of a tensor in host memory, or a read-only copy of one elsewhere."""
    array: NDArray[np.float32] = tensor.detach().cpu().numpy()
    if tensor.device.type != "cpu":
        array.flags.writeable = False
    return array
