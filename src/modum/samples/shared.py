"""Share a data set's samples out in blocks: faster workers do more, and each sample is done once per epoch."""

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from modum.coordination.consistency import agree
from modum.errors import DeadlineError, LeaseLostError
from modum.groups import Alone, Group
from modum.samples.permutation import Permutation
from modum.waiting import Deadline

if TYPE_CHECKING:
    from modum.box import Box

__all__ = ["Report", "SharedSamples"]

_log = logging.getLogger("modum.samples")


_LOOK_SECONDS: Final = 1.0
"""How often a worker that waits for the last blocks looks whether the training was stopped."""


class Report(Protocol):
    """A function that is told about progress."""

    def __call__(self, *, samples: int, total: int) -> None:
        """Note progress.

        Args:
            samples: samples done since the last report.
            total: samples of all epochs.
        """


class SharedSamples:
    """Batches of sample indices, drawn by all workers of a job from one pool.

    Workers take the blocks of a `Permutation`, the same for all, from a queue of the box. Iterating yields the batches
    block by block, as 1-D int64 index arrays, until all blocks of all epochs are done, or the training was stopped. A
    block counts as done when the batch after its last one is requested; if its worker dies in it (or leaves), the whole
    block is handed out again. So within an epoch no sample is lost, and none is done twice except those of a block that
    was begun by a worker that died, or that was cut off from the box for longer than the servers' grace; it logs a
    warning and goes on.

    In a group, the leader takes the block, each member gets its part of every batch, and all take equally many steps.

    Args:
        box: the box that holds the queue.
        size: samples of the data set, at least 1.
        batch_size: samples in a batch of the whole group.
        epochs: how often each sample is handed out.
        block: samples in a block, at least a batch; None: 8 batches. Smaller blocks spread the end of the last epoch
            more evenly over workers.
        seed: seed of the permutations.
        group: the workers that step together; None: this one alone.
        name: name of the pool in the box.
        timeout: seconds to wait at the end for blocks that others still work on.
        report: called with what this worker has done, after each batch.
        ended: called when this worker finds that all blocks are done, by whomever; in a group, on the leader.
        stopped: asked before each block, on the leader: if it says so, no more is handed out here.

    Attributes:
        group: as given.
        timeout: as given.
        permutation: the blocks and batches that are handed out.
        epoch: epoch of this worker's newest block, from 0.
        progress: fraction of the job that was handed out before that block: 0 to 1, for schedules.

    Raises:
        ValueError: an argument is out of its range.
        MismatchError: other workers use the same name with other settings.
    """

    def __init__(
        self,
        box: "Box",
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
        ended: Callable[[], None] | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self.group = group or Alone()
        self.timeout = timeout
        self.permutation = Permutation(
            size=size, batch_size=batch_size, epochs=epochs, block=block, seed=seed, members=self.group.size
        )
        self.epoch = 0
        self.progress = 0.0
        self._report = report
        self._ended = ended
        self._stopped = stopped
        settings = {"size": size, "epochs": epochs, "block": self.permutation.block, "seed": seed}
        agree(box, f"{name}/settings", {"samples": settings})
        self._queue = box.queue(name, self.permutation.blocks)

    @property
    def size(self) -> int:
        """Samples of the data set."""
        return self.permutation.size

    @property
    def epochs(self) -> int:
        """How often each sample is handed out."""
        return self.permutation.epochs

    @property
    def total(self) -> int:
        """Samples of all epochs."""
        return self.permutation.total

    @property
    def done_blocks(self) -> int:
        """Blocks that are done, by all workers; asks the box."""
        return self._queue.statistics().done

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        for block in self.blocks():
            for batch in block:
                yield batch
                self.processed(len(batch))

    def blocks(self) -> Iterator[list[NDArray[np.int64]]]:
        """Yield this member's batches block by block; asking for the next block confirms the last one.

        For loops that cannot go batch by batch (a loader that fetches ahead must not confirm what it fetched). Call
        `processed` for each batch.
        """
        while (item := self._agreed()) is not None:
            yield self.batches(item)
            self.done(item)

    def take(self, timeout: float) -> int | None:
        """Take the next block. In a group, only the leader takes.

        Args:
            timeout: seconds to wait for the last blocks.

        Returns:
            The block's number, or None when all are done, or the training was stopped.

        Raises:
            DeadlineError: others still work on the last blocks.
        """
        deadline = Deadline(timeout)
        while True:
            if self._stopped():
                return None
            try:
                block = self._queue.take(min(deadline.left, _LOOK_SECONDS))
                break
            except DeadlineError:
                if deadline.passed:
                    raise
        if block is None and self._ended is not None:
            self._ended()
        return block

    def batches(self, block: int) -> list[NDArray[np.int64]]:
        """Return this member's batches of a taken block, and set `epoch` and `progress` to the block's."""
        self.progress = block / self.permutation.blocks
        self.epoch = self.permutation.epoch(block)
        return self.permutation.batches(block, self.group.rank)

    def done(self, block: int) -> None:
        """Confirm that all samples of a block were done. All members of a group call it; the leader's call counts.

        If the block has gone to another worker meanwhile, this one logs a warning and goes on.
        """
        if self.group.rank == 0:
            try:
                self._queue.done(block)
            except LeaseLostError:
                _log.warning(
                    "block %d was handed to another worker as well, because this one had not been heard of for longer"
                    " than the servers' grace: its samples may be trained on twice",
                    block,
                )

    def processed(self, samples: int) -> None:
        """Report that `samples` more were done here."""
        if self._report is not None:
            self._report(samples=samples, total=self.total)

    def _agreed(self) -> int | None:
        item = self.take(self.timeout) if self.group.rank == 0 else None
        item = self.group.broadcast(-1 if item is None else item)
        return None if item < 0 else item
