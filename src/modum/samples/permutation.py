"""The order in which samples are handed out, and the batches of a block: arithmetic alone."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["BATCHES_PER_BLOCK", "Permutation"]

BATCHES_PER_BLOCK = 8


@dataclass(kw_only=True, slots=True)
class Permutation:
    """The blocks of all epochs: each epoch is a permutation of `range(size)`, cut into blocks of consecutive positions.

    The last block of an epoch also has the remainder, so it may be almost twice as long. If a block is not a multiple
    of a batch, it is cut into equal batches (to one sample) that are no larger. Member `i` of a group gets the
    `i`-th part of every batch: the parts differ by one sample at most, and none is empty.

    Attributes:
        size: samples of the data set, at least 1.
        batch_size: samples in a batch of the whole group.
        epochs: how often each sample is handed out.
        block: samples in a block, at least a batch; None: 8 batches.
        seed: seed of the permutations.
        members: members of the group.

    Raises:
        ValueError: a value is out of its range, or a batch would have no sample for some member.
    """

    size: int
    batch_size: int
    epochs: int = 1
    block: int | None = None
    seed: int = 0
    members: int = 1
    _order: tuple[int, NDArray[np.int64]] | None = field(default=None, init=False, repr=False, compare=False)
    """The newest epoch and its permutation."""

    def __post_init__(self) -> None:
        for what in ("size", "batch_size", "epochs"):
            if (value := getattr(self, what)) < 1:
                raise ValueError(f"{what} ({value}) must be at least 1")
        if self.block is None:
            self.block = BATCHES_PER_BLOCK * self.batch_size
        self.block = min(self.size, self.block)
        if self.block < min(self.size, self.batch_size):
            raise ValueError(f"block ({self.block}) must hold at least one batch ({self.batch_size})")
        lengths = [self._length(number) for number in (0, self.blocks_per_epoch - 1)]
        smallest = min(length // self._steps(length) for length in lengths)
        if smallest < self.members:
            raise ValueError(
                f"with batch_size {self.batch_size}, block {self.block} and size {self.size}, a batch may have "
                f"{smallest} samples, fewer than the group's {self.members} members: use a larger batch_size"
            )

    @property
    def blocks_per_epoch(self) -> int:
        """Blocks in an epoch."""
        assert self.block is not None
        return self.size // self.block

    @property
    def blocks(self) -> int:
        """Blocks in all epochs."""
        return self.epochs * self.blocks_per_epoch

    @property
    def total(self) -> int:
        """Samples of all epochs."""
        return self.size * self.epochs

    def epoch(self, block: int) -> int:
        """Return the epoch of a block, from 0."""
        return block // self.blocks_per_epoch

    def batches(self, block: int, begun: int = 0) -> list[NDArray[np.int64]]:
        """Return the batches of a block, of the whole group: 1-D arrays of sample indices.

        Args:
            block: its number.
            begun: how many of its first samples are left out, as they are done; some are not where too few would be
                left for each member to have one.

        Returns:
            The batches, in order.
        """
        assert self.block is not None
        epoch, number = divmod(block, self.blocks_per_epoch)
        start, length = number * self.block, self._length(number)
        while begun and (length - begun) // max(1, self._steps(length - begun)) < self.members:
            begun -= 1
        positions = self._permuted(epoch)[start + begun : start + length]
        return np.array_split(positions, self._steps(len(positions)))

    def part(self, batch: NDArray[np.int64], member: int) -> NDArray[np.int64]:
        """Return a member's part of a batch."""
        return np.array_split(batch, self.members)[member]

    def _length(self, number: int) -> int:
        """Return the samples in a block of an epoch."""
        assert self.block is not None
        return self.block + (self.size % self.block if number == self.blocks_per_epoch - 1 else 0)

    def _steps(self, length: int) -> int:
        """Return in how many batches so many samples are cut."""
        return -(-length // self.batch_size)

    def _permuted(self, epoch: int) -> NDArray[np.int64]:
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng([self.seed, epoch]).permutation(self.size))
        return self._order[1]
