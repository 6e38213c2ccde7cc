"""Layers that users write in Python for pycaffe: setup, reshape, forward and backward on blobs of NumPy arrays.

The class is found on PYTHONPATH. Its module may `import caffe`: unless caffe is already imported, it gets Modum's
stand-in, which has `caffe.Layer` and all of `modum.caffe`.
"""

from __future__ import annotations

import importlib
import math
import sys
import types
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from modum.caffe.blob import Blob
from modum.caffe.layers.base import Layer, Shape, register, run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from modum.caffe.proto import LayerParameter


class UserLayer:
    """Base of the classes that Python layers name, like pycaffe's `caffe.Layer`.

    Args:
        layer_param: the layer's definition.

    Attributes:
        param_str: the string of that name in the net file.
        phase: 0 in TRAIN, 1 in TEST.
        blobs: the parameters; `blobs.add_blob(3, 4)` in `setup` makes one of that shape.
    """

    param_str: str
    phase: int
    blobs: UserBlobs

    def __init__(self, layer_param: LayerParameter | None = None) -> None:
        self.layer_param = layer_param


class ArrayBlob(Blob):
    """A blob with its own memory. Reshaping keeps the values if their count stays, else they become zeros."""

    def __init__(self, shape: Shape = ()) -> None:
        self._data: NDArray[np.float32] = np.zeros(shape, np.float32)
        self._diff: NDArray[np.float32] = np.zeros(shape, np.float32)

    @property
    def data(self) -> NDArray[np.float32]:
        return self._data

    @property
    def diff(self) -> NDArray[np.float32]:
        return self._diff

    @property
    def shape(self) -> Shape:
        return self._data.shape

    def reshape(self, *shape: int) -> None:
        same = math.prod(shape) == self._data.size
        self._data = self._data.reshape(shape) if same else np.zeros(shape, self._data.dtype)
        self._diff = self._diff.reshape(shape) if same else np.zeros(shape, self._diff.dtype)

    def take(self, data: NDArray[np.float32]) -> None:
        """Use `data` as this blob's values, without a copy, and set its gradient to zeros."""
        self._data = data
        self._diff = np.zeros_like(data)

    def convert(self, dtype: np.dtype[Any]) -> None:
        """Convert to another dtype."""
        if self._data.dtype != dtype:
            self._data, self._diff = self._data.astype(dtype), self._diff.astype(dtype)


class UserBlobs:
    """A Python layer's parameters, as its code sees them."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self._blobs: list[ArrayBlob] = []

    def add_blob(self, *shape: int) -> ArrayBlob:
        """Add a parameter of zeros. Its `data` is the parameter's own memory."""
        self._layer.add_blob(shape, None, None)
        self._blobs.append(ArrayBlob())
        self.refresh()
        return self._blobs[-1]

    def refresh(self) -> None:
        """Look up the parameters' memory again, as it may have changed."""
        for blob, parameter in zip(self._blobs, self._layer.blobs, strict=True):
            blob.take(parameter.detach().cpu().numpy())

    def __len__(self) -> int:
        return len(self._blobs)

    def __getitem__(self, index: int) -> ArrayBlob:
        return self._blobs[index]

    def __iter__(self) -> Iterator[ArrayBlob]:
        return iter(self._blobs)


class _Call(torch.autograd.Function):
    """Runs the user's forward and backward. Inputs: the layer, its bottoms, its parameters."""

    @staticmethod
    def forward(ctx: Any, layer: PythonLayer, *tensors: Tensor) -> tuple[Tensor, ...]:
        bottoms = tensors[: len(layer.bottom_blobs)]
        for blob, tensor in zip(layer.bottom_blobs, bottoms, strict=True):
            blob.take(tensor.detach().cpu().numpy().copy())
        layer.user.blobs.refresh()
        like = tensors[0] if tensors else torch.empty(0)
        for blob in layer.top_blobs:
            blob.convert(np.dtype(str(like.dtype).removeprefix("torch.")))
        layer.user.reshape(layer.bottom_blobs, layer.top_blobs)
        layer.user.forward(layer.bottom_blobs, layer.top_blobs)
        ctx.layer, ctx.device = layer, like.device
        return tuple(torch.from_numpy(blob.data.copy()).to(like.device) for blob in layer.top_blobs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        layer: PythonLayer = ctx.layer
        for blob, grad in zip(layer.top_blobs, grads, strict=True):
            blob.diff[...] = grad.cpu().numpy()
        sources = [*layer.bottom_blobs, *layer.user.blobs]
        for blob in sources:
            blob.diff[...] = 0
        wanted = list(ctx.needs_input_grad[1:])
        layer.user.backward(layer.top_blobs, wanted[: len(layer.bottom_blobs)], layer.bottom_blobs)
        found = (torch.from_numpy(blob.diff.copy()).to(ctx.device) for blob in sources)
        return (None, *(grad if wants else None for grad, wants in zip(found, wanted, strict=True)))


@register("Python")
class PythonLayer(Layer):
    """A layer whose class is `python_param.layer` in the module `python_param.module`."""

    bottom_range = (0, None)
    top_range = (0, None)

    def make(self, bottoms: Sequence[Shape], generator: torch.Generator | None) -> None:
        self.user = self._make_user()
        self.user.param_str, self.user.phase = self.spec.python_param.param_str, self.phase
        self.user.blobs = UserBlobs(self)
        self.bottom_blobs = [ArrayBlob(shape) for shape in bottoms]
        self.top_blobs = [ArrayBlob() for _ in range(self.top_count)]
        self.user.setup(self.bottom_blobs, self.top_blobs)

    def _make_user(self) -> Any:
        param = self.spec.python_param
        if "caffe" not in sys.modules:
            _stand_in()
        try:
            module = importlib.import_module(param.module)
        except ModuleNotFoundError as error:
            raise self.error(
                f'cannot import module "{param.module}" ({error}): is its folder in PYTHONPATH?'
            ) from error
        found = getattr(module, param.layer, None)
        if not isinstance(found, type):
            raise self.error(f'module "{param.module}" ({module.__file__}) has no class "{param.layer}"')
        return found(self.spec) if issubclass(found, UserLayer) else found()

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        for blob, shape in zip(self.bottom_blobs, bottoms, strict=True):
            blob.reshape(*shape)
        self.user.reshape(self.bottom_blobs, self.top_blobs)
        return [blob.shape for blob in self.top_blobs]

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        tops: tuple[Tensor, ...] = run(_Call, self, *bottoms, *self.blobs)
        return tops


def _stand_in() -> None:
    """Make `import caffe` import the contents of `modum.caffe`."""
    module = types.ModuleType("caffe", "Modum's stand-in for pycaffe.")

    def from_modum(name: str) -> Any:
        return getattr(importlib.import_module("modum.caffe"), name)

    module.__dict__.update(Layer=UserLayer, __getattr__=from_modum, __path__=[])
    sys.modules["caffe"] = module
    for name, own in {"io": "io", "proto": "proto", "proto.caffe_pb2": "proto"}.items():
        sys.modules[f"caffe.{name}"] = importlib.import_module(f"modum.caffe.{own}")
