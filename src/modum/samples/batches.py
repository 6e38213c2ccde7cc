"""Batches of data, loaded by the indices that workers share."""

from collections.abc import Callable, Iterator
from typing import Any

from modum.samples.shared import SharedSamples


class Batches:
    """Batches of data to train on; can be iterated once.

    Args:
        samples: the pool from which the indices are drawn; its `progress` and `epoch` are for schedules.
        load: takes a 1-D int64 array of indices and returns that batch.
    """

    def __init__(self, samples: SharedSamples, load: Callable[[Any], Any]) -> None:
        self.samples = samples
        self._load = load

    def __iter__(self) -> Iterator[Any]:
        return map(self._load, self.samples)
