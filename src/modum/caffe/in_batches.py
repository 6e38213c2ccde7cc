"""Run arrays of any length through a net in batches: pycaffe's `Net.forward_all` and `Net.forward_backward_all`."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray


__all__ = ["forward_all", "forward_backward_all"]

Arrays = dict[str, "NDArray[np.float32]"]


class Batched(Protocol):
    """The interface of a net that is used here: `modum.caffe.Net` has it."""

    @property
    def inputs(self) -> Sequence[str]:
        """Names of the inputs."""

    @property
    def blobs(self) -> Mapping[str, Any]:
        """All blobs by name."""

    def forward(self, blobs: Any = None, start: Any = None, end: Any = None, **inputs: Any) -> Arrays:
        """Run the layers; see `modum.caffe.Net.forward`."""

    def backward(self, diffs: Any = None, start: Any = None, end: Any = None, **gradients: Any) -> Arrays:
        """Compute gradients; see `modum.caffe.Net.backward`."""


def forward_all(net: Batched, blobs: Sequence[str] | None, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
    """Return the outputs of `net` and `blobs` for all rows of `inputs`; the last batch is padded with zeros."""
    return _joined([_copy(net.forward(blobs, None, None, **batch)) for batch in _batches(net, inputs)], inputs)


def forward_backward_all(
    net: Batched, blobs: Sequence[str] | None, diffs: Sequence[str] | None, arrays: Mapping[str, NDArray[Any]]
) -> tuple[Arrays, Arrays]:
    """Return the outputs and `blobs`, and the gradients of the inputs and of `diffs`.

    `arrays` has rows for inputs, and gradients for outputs.
    """
    inputs = {name: array for name, array in arrays.items() if name in net.inputs}
    gradients = {name: array for name, array in arrays.items() if name not in net.inputs}
    ahead, back = [], []
    nothing: Arrays = {}
    for batch, gradient in zip_longest(_batches(net, inputs), _batches(net, gradients), fillvalue=nothing):
        ahead.append(_copy(net.forward(blobs, None, None, **batch)))
        back.append(_copy(net.backward(diffs, None, None, **gradient)))
    return _joined(ahead, arrays), _joined(back, arrays)


def _copy(arrays: Arrays) -> Arrays:
    return {name: array.copy() for name, array in arrays.items()}


def _batches(net: Batched, arrays: Mapping[str, NDArray[Any]]) -> Iterator[Arrays]:
    """Yield the rows of `arrays` in batches of the net's size."""
    if not arrays:
        return
    size = next(iter(net.blobs.values())).shape[0]
    rows = {len(array) for array in arrays.values()}
    if len(rows) > 1:
        raise ValueError(f"all arrays must have as many rows, but they have {', '.join(map(str, sorted(rows)))}")
    for start in range(0, rows.pop(), size):
        batch = {name: np.asarray(array[start : start + size], np.float32) for name, array in arrays.items()}
        yield {
            name: np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), np.float32)])
            for name, part in batch.items()
        }


def _joined(batches: Sequence[Arrays], arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    """Return all rows, without the padding of the last batch."""
    rows = len(next(iter(arrays.values()))) if arrays else None
    return {name: np.concatenate([np.atleast_1d(batch[name]) for batch in batches])[:rows] for name in batches[0]}
