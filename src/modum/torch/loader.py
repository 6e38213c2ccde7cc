"""A DataLoader over shared samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader, Dataset, Sampler

if TYPE_CHECKING:
    from collections.abc import Iterator

    from modum.samples import SharedSamples

CHOSEN_HERE = ("batch_size", "shuffle", "sampler", "batch_sampler", "drop_last")


class _Block(Sampler[list[int]]):
    """The batches of the block that is being loaded."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def loader(dataset: Dataset[Any], samples: SharedSamples, **options: Any) -> Iterator[Any]:
    """What ``DataLoader(dataset, **options)`` yields, for the batches of ``samples``.

    Loader processes (``num_workers``) fetch ahead within a block but not beyond it, so that a block is
    confirmed only when its last batch was processed; choose larger blocks where loading is slow.

    Raises:
        ValueError: an option names what ``samples`` decides (``batch_size``, ``shuffle``, a sampler,
            ``drop_last``).
    """
    if taken := [option for option in CHOSEN_HERE if option in options]:
        raise ValueError(f"{', '.join(taken)}: batches are cut by the samples; say it to SharedSamples")
    options.setdefault("persistent_workers", options.get("num_workers", 0) > 0)
    block = _Block()
    return _load(DataLoader(dataset, batch_sampler=block, **options), block, samples)


def _load(batches: DataLoader[Any], current: _Block, samples: SharedSamples) -> Iterator[Any]:
    for block in samples.blocks():
        current.batches = [batch.tolist() for batch in block]
        for batch, data in zip(block, batches, strict=True):
            yield data
            samples.processed(len(batch))
