"""Shared samples for loops that fetch batches ahead, on another thread, and may drop what they fetched."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from modum.errors import DeadlineError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from modum.samples.shared import SharedSamples

_DONE = -1
_PAUSE = -2
_LOOK_SECONDS = 0.05
"""How often to check whether a dead worker's block has come back."""
_LOOKED_AT = 8
"""Batches that a loop may look at before it says that it trains."""


@dataclass(frozen=True, slots=True)
class _Batch:
    indices: NDArray[np.int64]
    epoch: int
    finishes: int | None
    """The block that this batch completes."""


class Prefetch:
    """The batches of `SharedSamples`, where fetching one does not mean that those before it were trained on.

    `batches` yields them, on any thread; `trained` confirms the oldest ones. A new pass begins with batches that the
    previous pass yielded but that were not trained on: a loop may look at the first batch, stop anywhere, or restart.

    Args:
        samples: the pool.
        together: batches that the loop fetches before it trains on any of them (Keras: `steps_per_execution`).
        unfollowed: what to say to a loop that fetches more than a few batches while `followed` is False.

    Attributes:
        followed: whether somebody calls `trained`; else waiting for more batches would never end.
    """

    def __init__(self, samples: SharedSamples, together: int = 1, *, unfollowed: str = "") -> None:
        self.samples = samples
        self.together = together
        self.followed = not unfollowed
        self._unfollowed = unfollowed
        self._ended = False
        self._first = 0
        """The epoch of the first samples that are trained on."""
        self._batches: deque[_Batch] = deque()
        """Batches taken but not yet trained on."""
        self._yielded = 0
        """How many of them this pass has yielded."""
        self._pass = 0
        self._taking = False
        self._done = False
        self._paused = False
        self._changed = threading.Condition()

    def batches(self) -> Iterator[NDArray[np.int64]]:
        """Yield 1-D index arrays until all samples of all epochs are taken. A new call ends the previous one.

        A loop that is not followed yet, and only looks at a batch, gets the first sample where none is left.

        Yields:
            This member's part of each batch.

        Raises:
            RuntimeError: the loop fetches more than it may look at while nobody follows, or all was done by a loop that
                has ended.
        """
        if self.over:
            raise RuntimeError(
                "the samples of this share() are all done, or were stopped, so there is nothing left to train\n"
                "HINT: call share again for the next fit"
            )
        with self._changed:
            self._pass += 1
            self._yielded = 0
            self._paused = False
            number = self._pass
            self._changed.notify_all()
        looked = False
        while (indices := self._next(number)) is not None:
            looked = True
            yield indices
        if not (looked or self.followed):
            yield np.zeros(1, np.int64)

    def trained(self) -> tuple[int, bool]:
        """Confirm that the loop has trained on what it fetched together.

        Returns:
            How many batches that was, and whether they end an epoch: the next batch here is of another one, or there
            is none. To know that, it waits for the others at the very end of the job, in case a dead worker's block
            comes back; but not with several batches together, where it had to end the pass before.

        Raises:
            DeadlineError: others still work on the last blocks after the timeout of the samples.
        """
        with self._changed:
            batches = min(self.together, self._yielded)
            epoch = self._batches[0].epoch if self._batches else 0
            for _ in range(batches):
                batch = self._batches.popleft()
                self._yielded -= 1
                self._left_out(batch)
            self._changed.notify_all()
            while not (self._batches or self._done or self._paused):
                self._take_or_wait()
            return batches, not self._batches or self._batches[0].epoch != epoch

    def left(self) -> bool:
        """Return whether there is a batch to train on, waiting for one as long as others may return a block.

        Returns:
            Whether there is one; False: all samples of all epochs are done.

        Raises:
            DeadlineError: others still work on the last blocks after the timeout of the samples.
        """
        with self._changed:
            while not (self._batches or self._done):
                self._take_or_wait()
            return bool(self._batches)

    def end(self) -> None:
        """Note that the loop has ended: the last pass ends too, and nobody follows another one.

        What was fetched and not trained on is given back. Not in a group: its other members may have fetched more or
        less ahead, and the next loop has to go on there.
        """
        with self._changed:
            self.end_pass()
            self.followed = False
            self._ended = True
            self._give_back()

    def begin(self, epoch: int) -> None:
        """Leave the samples of the epochs before this one out: they count as done.

        Args:
            epoch: the first epoch to train, from 0; all members of a group, and all workers, give the same.
        """
        with self._changed:
            self._first = epoch
            while self._batches and self._batches[0].epoch < epoch:
                self._left_out(self._batches.popleft())
                self._yielded = max(0, self._yielded - 1)

    def end_pass(self) -> None:
        """End the current pass: a thread that fetches ahead for it gets no more, and waits for nothing."""
        with self._changed:
            self._pass += 1
            self._changed.notify_all()

    @property
    def done(self) -> bool:
        """Whether all samples of all epochs are done, on any worker."""
        return self._done

    @property
    def over(self) -> bool:
        """Whether a loop has ended with all samples done, so that there is nothing for another one."""
        return self._ended and self._done

    def _next(self, number: int) -> NDArray[np.int64] | None:
        with self._changed:
            while number == self._pass:
                if self._yielded < len(self._batches):
                    batch = self._batches[self._yielded]
                    self._yielded += 1
                    return batch.indices
                if self._done or self._paused:
                    return None
                held = len(self._batches)
                if self.followed or held < _LOOKED_AT:
                    self._take_or_wait()
                if not (self.followed or self._done) and held == len(self._batches) > 0:
                    raise RuntimeError(self._unfollowed)
            return None

    def _give_back(self) -> None:
        if self.samples.group.size == 1:
            self._batches.clear()
            self._yielded = 0
            self.samples.give_back()

    def _left_out(self, batch: _Batch) -> None:
        """Confirm a batch that was trained on, or is not to be."""
        self.samples.processed(len(batch.indices))
        if batch.finishes is not None:
            self.samples.done(batch.finishes)

    def _take_or_wait(self) -> None:
        """Take a block, or wait a moment for one. Called with the condition held; the wait releases it.

        The pass is paused if the loop has fetched all there is and cannot train without more.
        """
        if self._taking:
            self._changed.wait()
            return
        # cannot wait for more while the loop waits for us: it must first train on what it holds
        starving = 0 < self._yielded < self.together
        idle = not self._batches
        number = self._pass
        self._taking = True
        self._changed.release()
        item: int | None = None
        failed = True
        try:
            item = self._take(starving, idle)
            failed = False
        finally:
            self._changed.acquire()
            self._taking = False
            if failed:
                self._changed.notify_all()
        if item is None:
            self._changed.wait(_LOOK_SECONDS)
        elif item == _DONE:
            self._done = True
        elif item == _PAUSE:
            self._paused = True
        else:
            cut = self.samples.batches(item)
            batches = [
                _Batch(indices, self.samples.epoch, item if number == len(cut) else None)
                for number, indices in enumerate(cut, 1)
            ]
            if self.samples.epoch < self._first:
                for batch in batches:
                    self._left_out(batch)
            else:
                self._batches.extend(batches)
            if self._ended and not self.followed and number != self._pass:
                self._give_back()  # it came too late
        self._changed.notify_all()

    def _take(self, starving: bool, idle: bool) -> int | None:
        """Return a block's number, `_DONE`, `_PAUSE`, or None: look again. All members of a group take the same."""
        group = self.samples.group
        if group.rank != 0:
            return group.broadcast(0)
        try:
            taken = self.samples.take(self.samples.timeout if idle else 0.0)
            item = _DONE if taken is None else taken
        except DeadlineError:
            if idle:
                raise
            if not starving:
                return None
            item = _PAUSE
        return group.broadcast(item)
