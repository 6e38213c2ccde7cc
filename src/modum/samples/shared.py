"""The data set's samples, shared out in blocks: faster workers do more, and each is done once an epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from modum.coordination.consistency import agree
from modum.groups.alone import Alone

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from modum.box import Box
    from modum.groups.base import Group

BATCHES_PER_BLOCK = 8


class Report(Protocol):
    """What is told about progress; `modum.observe.progress.WorkerProgress.report` fits."""

    def __call__(self, *, samples: int, total: int) -> None: ...


class SharedSamples:
    """Batches of sample indices, drawn by all workers of a job from one pool.

    Every epoch is a permutation of ``range(size)``, the same for all workers; consecutive positions of it
    form blocks, which workers take from a queue of the box. Iterating yields the batches of block after
    block, as 1-D int64 index arrays, until all blocks of all epochs are done. A block is done when the batch
    after its last one is asked for; the block that a worker died in (or left) is handed out again, whole. So
    within an epoch no sample is lost, and none is done twice but those of a block that was begun by a worker
    that died.

    In a group, the leader takes the block, and member ``i`` gets the ``i``-th part of every batch: the parts
    differ by one sample at most, none is empty, and all members take equally many steps.

    size
        Samples of the data set, at least 1.
    batch_size
        Samples in a batch, of the whole group. Where a block is not a multiple of it, the block is cut into
        batches of equal size (to one sample) that are no larger.
    block
        Samples in a block; the last block of an epoch also has the remainder (so it may be almost twice as
        long). Default: 8 batches. Smaller blocks spread the end of the last epoch more evenly over workers.
    timeout
        Seconds to wait at the end for blocks that others work on; DeadlineError after that.
    report
        Called with what this worker has done, after each batch.
    """

    def __init__(
        self,
        box: Box,
        *,
        size: int,
        batch_size: int,
        epochs: int = 1,
        block: int | None = None,
        seed: int = 0,
        group: Group[Any] | None = None,
        name: str = "samples",
        timeout: float = 600.0,
        report: Report | None = None,
    ) -> None:
        for what, value in (("size", size), ("batch_size", batch_size), ("epochs", epochs)):
            if value < 1:
                raise ValueError(f"{what} ({value}) must be at least 1")
        block = min(size, block or BATCHES_PER_BLOCK * batch_size)
        if block < min(size, batch_size):
            raise ValueError(f"block ({block}) must hold at least one batch ({batch_size})")
        self.group = group or Alone()
        self.size = size
        self.epochs = epochs
        self.epoch = 0
        """The epoch of the newest block of this worker, from 0."""
        self.progress = 0.0
        """How much of the job had been handed out before this worker's newest block: 0 to 1, for schedules."""
        self._batch_size = batch_size
        self._block = block
        self._blocks = size // block
        smallest = min(self._length(0) // self._steps(0), self._length(-1) // self._steps(-1))
        if smallest < self.group.size:
            raise ValueError(
                f"with batch_size {batch_size}, block {block} and size {size}, a batch may have {smallest} "
                f"samples, fewer than the group's {self.group.size} members: use a larger batch_size"
            )
        self._seed = seed
        self.timeout = timeout
        self._report = report
        self._permutation: tuple[int, NDArray[np.int64]] | None = None
        settings = {"size": size, "epochs": epochs, "block": block, "seed": seed}
        agree(box, f"{name}/settings", {"samples": settings})
        self._queue = box.queue(name, epochs * self._blocks)

    @property
    def total(self) -> int:
        """Samples of all epochs."""
        return self.size * self.epochs

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        for block in self.blocks():
            for batch in block:
                yield batch
                self.processed(len(batch))

    def blocks(self) -> Iterator[list[NDArray[np.int64]]]:
        """Yield this member's batches of one block after another; asking for the next one confirms that one is done.

        For loops that cannot go batch by batch (a loader that fetches ahead must not confirm what it
        fetched). Call `processed` for each batch.
        """
        while (item := self._agreed()) is not None:
            yield self.batches(item)
            self.done(item)

    def take(self, timeout: float) -> int | None:
        """The number of the next block, or None when all are done; of a group, the leader alone takes.

        Raises:
            DeadlineError: others still work on the last blocks after ``timeout`` seconds.
        """
        return self._queue.take(timeout)

    def batches(self, block: int) -> list[NDArray[np.int64]]:
        """This member's batches of the block that was taken; `epoch` and `progress` are its own from now on."""
        self.progress = block / (self.epochs * self._blocks)
        self.epoch, number = divmod(block, self._blocks)
        start = number * self._block
        positions = self._order()[start : start + self._length(number)]
        batches = np.array_split(positions, self._steps(number))
        return [np.array_split(batch, self.group.size)[self.group.rank] for batch in batches]

    def done(self, block: int) -> None:
        """All samples of the block were done. All members of a group say so; the leader's word counts."""
        if self.group.rank == 0:
            self._queue.done(block)

    def processed(self, samples: int) -> None:
        """Report that ``samples`` more samples were done here."""
        if self._report is not None:
            self._report(samples=samples, total=self.total)

    def _agreed(self) -> int | None:
        item = self.take(self.timeout) if self.group.rank == 0 else None
        item = self.group.broadcast(-1 if item is None else item)
        return None if item < 0 else item

    def _length(self, block: int) -> int:
        """Samples in a block of an epoch; -1 is the last one, which has the remainder."""
        return self._block + (self.size % self._block if block in (-1, self._blocks - 1) else 0)

    def _steps(self, block: int) -> int:
        return -(-self._length(block) // self._batch_size)

    def _order(self) -> NDArray[np.int64]:
        if self._permutation is None or self._permutation[0] != self.epoch:
            order = np.random.default_rng([self._seed, self.epoch]).permutation(self.size)
            self._permutation = (self.epoch, order)
        return self._permutation[1]
