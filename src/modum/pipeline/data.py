"""The data that pipelines train on: indices that they share, and functions that load a batch of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from modum.samples import SharedSamples

__all__ = ["SharedData", "loader"]


class SharedData:
    """Batches of sample indices, and the model's inputs and labels for each; made by `Pipeline.share`.

    Args:
        samples: the pool from which the indices are drawn.
        inputs: takes a 1-D int64 array of indices and returns the model's inputs.
        labels: takes such an array and returns the labels for the loss.

    Attributes:
        samples: as given.
        inputs: as given.
        labels: as given.
    """

    def __init__(self, samples: SharedSamples, inputs: Callable[[Any], Any], labels: Callable[[Any], Any]) -> None:
        self.samples = samples
        self.inputs = inputs
        self.labels = labels

    @property
    def progress(self) -> float:
        """Fraction of the job, 0 to 1, that was handed out before the newest block."""
        return self.samples.progress

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        return iter(self.samples)


def loader(data: Any) -> tuple[Callable[[Any], Any], int | None]:
    """Return a function that loads a batch of the data by its indices.

    Args:
        data: an array or tensor with the samples along the first axis, a tuple, list or dict of such, or a function
            that takes a 1-D int64 array of indices.

    Returns:
        The function, and the number of samples; None if `data` is a function.

    Raises:
        ValueError: arrays differ in length.
    """
    if callable(data):
        return data, None
    lengths = sorted(set(_lengths(data)))
    if len(lengths) != 1:
        raise ValueError(f"the arrays have {lengths} samples: they must be equally long")
    return lambda batch: _picked(data, batch), lengths[0]


def _lengths(data: Any) -> Iterator[int]:
    if isinstance(data, tuple | list):
        for part in data:
            yield from _lengths(part)
    elif isinstance(data, dict):
        yield from _lengths(list(data.values()))
    else:
        yield len(data)


def _picked(data: Any, batch: Any) -> Any:
    if isinstance(data, tuple | list):
        return type(data)(_picked(part, batch) for part in data)
    if isinstance(data, dict):
        return {name: _picked(part, batch) for name, part in data.items()}
    return data[batch]
