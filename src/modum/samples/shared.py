"""Share a data set's samples out in blocks: faster workers do more, and each sample is done once per epoch."""

import gc
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from modum.coordination.consistency import agree
from modum.errors import DeadlineError, LeaseLostError, ModumError
from modum.groups import Alone, Group
from modum.samples.permutation import Permutation
from modum.waiting import Deadline

if TYPE_CHECKING:
    from modum.box import Box, Value

__all__ = ["Boundaries", "Report", "SharedSamples"]

_log = logging.getLogger("modum.samples")


_NOTHING: Final = -1
"""What a leader tells when there is no block."""
_LOOK_SECONDS: Final = 1.0
"""How often a worker that waits for the last blocks looks whether the training was stopped."""


_collecting: Final[set[int]] = set()
"""Threads that collect garbage now, at any point of what they do: they may hold locks of the box's client."""


def _note_collection(phase: str, info: dict[str, int]) -> None:
    (_collecting.add if phase == "start" else _collecting.discard)(threading.get_ident())


gc.callbacks.append(_note_collection)


class Boundaries:
    """What is done between two batches, when the loop is at the end of a step: for checkpoints. This one does nothing.

    All members of a group call every method but `due`, at the same places.
    """

    def begin(self) -> None:
        """Called before the first block is taken."""

    def due(self) -> int:
        """Return the number of a checkpoint to be taken while the loop waits for a block, on the leader; 0: none."""
        return 0

    def between(self, number: int | None = None) -> bool:
        """Called where a batch is done: take a checkpoint that is due.

        Args:
            number: what `due` has returned on the leader; None: the loop does not wait.

        Returns:
            Whether one was taken.
        """
        return False


class Report(Protocol):
    """A function that is told about progress."""

    def __call__(self, *, samples: int, total: int) -> None:
        """Note progress.

        Args:
            samples: samples done since the last report.
            total: samples of all epochs.
        """


@dataclass(slots=True)
class _Held:
    """A block that this worker has taken and not confirmed."""

    begun: int
    """Samples of it that were done before."""
    lengths: list[int]
    """Of its batches, of the whole group."""
    trained: int = 0
    """Batches done here."""

    @property
    def done(self) -> int:
        return self.begun + sum(self.lengths[: self.trained])


class SharedSamples:
    """Batches of sample indices, drawn by all workers of a job from one pool.

    Workers take the blocks of a `Permutation`, the same for all, from a queue of the box. Iterating yields the batches
    block by block, as 1-D int64 index arrays, until all blocks of all epochs are done, or the training was stopped. A
    block counts as done when the batch after its last one is requested; if its worker dies in it, the whole block is
    handed out again. A loop that is left (`break`, an error) gives back what is left of its block, from the batch on
    that it had last, and whoever asks next goes on there. So within an epoch no sample is lost, and none is done twice
    except those of the batch at which a loop was left, and of a block that was begun by a worker that died, or that was
    cut off from the box for longer than the servers' grace; it logs a warning and goes on.

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
        leaving: asked after each batch, on all members, who find the same: if it says so, the loop ends, and what is
            left of its block is given back.
        boundaries: called between batches.

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
        leaving: Callable[[], bool] = lambda: False,
        boundaries: Boundaries | None = None,
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
        self._leaving = leaving
        self._boundaries = boundaries or Boundaries()
        settings = {"size": size, "epochs": epochs, "block": self.permutation.block, "seed": seed}
        agree(box, f"{name}/settings", {"samples": settings})
        self._queue = box.queue(name, self.permutation.blocks)
        self._box = box
        self._name = name
        self._held: dict[int, _Held] = {}
        """By what `take` returned, in that order."""
        self._left = False
        """What is held is to be given back."""

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
                if self.interrupted:
                    return
                self.between()

    def blocks(self) -> Iterator[list[NDArray[np.int64]]]:
        """Yield this member's batches block by block; asking for the next block confirms the last one.

        For loops that cannot go batch by batch (a loader that fetches ahead must not confirm what it fetched). Call
        `processed` for each batch, end the loop where this worker is `interrupted`, and call `between`.
        """
        self._boundaries.begin()
        try:
            while (item := self._agreed()) is not None:
                yield self.batches(item)
                self.done(item)
                self.between()
        finally:
            self._left = True
            if threading.get_ident() not in _collecting:
                with suppress(ModumError):  # the box may be gone, and the loop's own error says more
                    self.give_back()

    @property
    def holds(self) -> bool:
        """Whether this worker has taken samples that it has neither confirmed nor given back."""
        return bool(self._held)

    @property
    def interrupted(self) -> bool:
        """Whether this worker leaves in the middle of a block."""
        return self._leaving() and any(each.trained < len(each.lengths) for each in self._held.values())

    def take(self, timeout: float) -> int | None:
        """Take the next block. In a group, only the leader takes.

        Args:
            timeout: seconds to wait for the last blocks.

        Returns:
            The block's number, and if some of its samples are done, their number times `permutation.blocks` more; or
            None when all are done, or the training was stopped.

        Raises:
            DeadlineError: others still work on the last blocks.
        """
        if self._left:
            self.give_back()
        deadline = Deadline(timeout)
        while True:
            if self._leaving() or self._stopped():
                return None
            try:
                block = self._queue.take(min(deadline.left, _LOOK_SECONDS))
                break
            except DeadlineError:
                if deadline.passed:
                    raise
        if block is None:
            if self._ended is not None:
                self._ended()
            return None
        return block + (self._begun(block).get() or 0) * self.permutation.blocks

    def batches(self, taken: int) -> list[NDArray[np.int64]]:
        """Return this member's batches of a taken block, and set `epoch` and `progress` to the block's.

        Args:
            taken: what `take` returned.

        Returns:
            This member's part of each batch: 1-D arrays of sample indices.
        """
        begun, block = divmod(taken, self.permutation.blocks)
        self.progress = block / self.permutation.blocks
        self.epoch = self.permutation.epoch(block)
        whole = self.permutation.batches(block, begun)
        self._held[taken] = _Held(begun, [len(batch) for batch in whole])
        return [self.permutation.part(batch, self.group.rank) for batch in whole]

    def done(self, taken: int) -> None:
        """Confirm that all samples of a block were done. All members of a group call it; the leader's call counts.

        If the block has gone to another worker meanwhile, this one logs a warning and goes on.

        Args:
            taken: what `take` returned.
        """
        self._held.pop(taken, None)
        begun, block = divmod(taken, self.permutation.blocks)
        if self.group.rank == 0:
            try:
                self._queue.done(block)
                if begun:
                    self._begun(block).delete()
            except LeaseLostError:
                _log.warning(
                    "block %d was handed to another worker as well, because this one had not been heard of for longer"
                    " than the servers' grace: its samples may be trained on twice",
                    block,
                )

    def give_back(self) -> None:
        """Hand out again what this worker has taken and not done; the members of a group do so at the same batch.

        Raises:
            ModumError: the box cannot be reached; what is held ends with the session.
        """
        self._left = False
        held, self._held = self._held, {}
        if self.group.rank != 0:
            return
        for taken, each in held.items():
            block = taken % self.permutation.blocks
            with suppress(LeaseLostError):  # another worker does it already
                if each.trained:
                    self._begun(block).set(each.done)
                self._queue.give_back(block)

    def between(self) -> None:
        """Take a checkpoint that is due; one that is due at the end of a block comes once that is confirmed."""
        if all(each.trained < len(each.lengths) for each in self._held.values()):
            self._boundaries.between()

    def note(self) -> None:
        """Note in the box how much is done of what is held here, for a checkpoint that is taken until `forget`."""
        self._set_begun(lambda held: held.done)

    def forget(self) -> None:
        """Forget what `note` has noted: if this worker dies, the blocks that it holds are done again."""
        self._set_begun(lambda held: held.begun)

    def processed(self, samples: int) -> None:
        """Report that `samples` more were done here: those of the oldest batch that was not reported yet."""
        for each in self._held.values():
            if each.trained < len(each.lengths):
                each.trained += 1
                break
        if self._report is not None:
            self._report(samples=samples, total=self.total)

    def _begun(self, block: int) -> "Value":
        """Return how many of a block's samples were done by a worker that gave the block back."""
        return self._box.value(f"{self._name}/begun/{block}")

    def _set_begun(self, begun: Callable[[_Held], int]) -> None:
        if self.group.rank != 0:
            return
        for taken, each in self._held.items():
            if not each.trained:
                continue
            value = self._begun(taken % self.permutation.blocks)
            if samples := begun(each):
                value.set(samples)
            else:
                value.delete()

    def _agreed(self) -> int | None:
        """Return what the leader has taken, on all members; meanwhile they take checkpoints that become due."""
        deadline = Deadline(self.timeout)
        while True:
            item = self._taken(deadline) if self.group.rank == 0 else 0
            item = self.group.broadcast(item)
            if item >= 0:
                return item
            if item == _NOTHING:
                return None
            self._boundaries.between(_NOTHING - item)

    def _taken(self, deadline: Deadline) -> int:
        """Return a block, `_NOTHING`, or less than that by the number of a checkpoint that is due."""
        while True:
            try:
                taken = self.take(min(deadline.left, _LOOK_SECONDS))
                return _NOTHING if taken is None else taken
            except DeadlineError:
                if number := self._boundaries.due():
                    return _NOTHING - number
                if deadline.passed:
                    raise
