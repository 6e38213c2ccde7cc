"""Load data for a training loop, by the indices that the workers of a job share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from modum.samples import Batches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from modum.samples import SharedSamples

CHOSEN_HERE = ("batch_size", "shuffle", "sampler", "batch_sampler", "drop_last")


class _Block(Sampler[list[int]]):
    """Yields the batches of the block that is being loaded."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class Loader:
    """Loads batches of a data set, as `Averager.share` describes; can be iterated once.

    A `Dataset` is loaded as `DataLoader(dataset, **options)` does. Loader processes (`num_workers`) prefetch within a
    block but not beyond it, so that a block is confirmed only after its last batch was processed; choose larger blocks
    where loading is slow.

    Args:
        data: see `Averager.share`.
        size: number of samples; None: as many as the data has.
        options: options of the `DataLoader`.

    `len` raises TypeError, which says how many steps all groups take together: no worker knows its own.

    Raises:
        ValueError: see `Averager.share`.

    Attributes:
        size: number of samples in the data set.
        samples: the pool from which the batches are drawn, with `progress` and `epoch` for schedules.
    """

    samples: SharedSamples

    def __init__(self, data: Any, size: int | None, options: dict[str, Any]) -> None:
        if taken := [option for option in CHOSEN_HERE if option in options]:
            raise ValueError(f"{', '.join(taken)}: batches are cut by the shared samples; say it to share()")
        self._dataset: Dataset[Any] | None = data if isinstance(data, Dataset) else None
        self._options = options
        if isinstance(data, IterableDataset):
            raise ValueError(
                "an IterableDataset has no indices to share out: give share() a Dataset with __getitem__, or loop over "
                "a DataLoader of this worker's own part (job.rank of job.world_size), without share()"
            )
        if self._dataset is None and options:
            raise ValueError(f"{', '.join(options)}: options of a DataLoader go with a torch.utils.data.Dataset")
        if self._dataset is None and not callable(data):
            arrays = data if isinstance(data, tuple) else (data,)
            lengths = sorted({len(array) for array in arrays})
            if len(lengths) != 1 or size not in (None, *lengths):
                raise ValueError(f"the arrays have {lengths} samples, and size is {size}: they must be equally long")
            size, data = lengths[0], _gathering(data)
        self._load: Callable[[Any], Any] = data
        if size is None and hasattr(data, "__len__"):
            size = len(data)
        if size is None:
            raise ValueError("share(function) needs size=: the number of samples that the function can load")
        self.size = size

    def draw(self, samples: SharedSamples) -> Self:
        """Set the pool from which the indices are drawn, and return this loader."""
        self.samples = samples
        return self

    def __len__(self) -> int:
        batch = self.samples.permutation.batch_size
        raise TypeError(
            "no worker knows how many steps it will take, as faster ones take more: all groups together take about "
            f"{-(-self.samples.total // batch):,} of {batch} samples. Make a learning rate schedule a function of "
            "samples.progress, which goes from 0 to 1 for all workers"
        )

    def __iter__(self) -> Iterator[Any]:
        if self._dataset is None:
            yield from Batches(self.samples, self._load)
            return
        self._options.setdefault("persistent_workers", self._options.get("num_workers", 0) > 0)
        current = _Block()
        loader = DataLoader(self._dataset, batch_sampler=current, **self._options)
        for block in self.samples.blocks():
            current.batches = [batch.tolist() for batch in block]
            for batch, data in zip(block, loader, strict=True):
                yield data
                self.samples.processed(len(batch))
                if self.samples.interrupted:
                    return
                self.samples.between()


def _gathering(data: Any) -> Callable[[Any], Any]:
    def pick(array: Any, indices: Any) -> Any:
        return array[torch.from_numpy(indices)] if isinstance(array, torch.Tensor) else array[indices]

    if isinstance(data, tuple):
        return lambda indices: tuple(pick(array, indices) for array in data)
    return lambda indices: pick(data, indices)
