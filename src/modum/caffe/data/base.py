"""The base of data layers: a loader that makes batches, and a layer whose thread loads them ahead."""

from __future__ import annotations

import json
import os
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modum.caffe.data.prefetch import Prefetcher
from modum.caffe.errors import CaffeError
from modum.caffe.layers.base import Layer, Range, Shape
from modum.caffe.proto import LayerParameter
from modum.cluster.environment import workers_on_host
from modum.data import DataError

__all__ = [
    "Batch",
    "Checkpoint",
    "Decoders",
    "Loader",
    "PrefetchingLayer",
    "Shape",
    "Source",
    "random_state",
    "seed_from",
    "set_random_state",
]

Batch = tuple[NDArray[np.float32], ...]
"""One array per top."""
Checkpoint = Callable[[], None]
"""Call it between records: it raises when the thread must end."""
MOST_DECODERS = 8
A = TypeVar("A")
B = TypeVar("B")


class Loader(ABC):
    """Makes batches from records, one after the other, on one thread at a time."""

    def __init__(self) -> None:
        self.workers = 1
        self.order = np.random.default_rng(0)
        """Random numbers for the order of records, the same for all workers."""
        self.random = np.random.default_rng(0)
        """Random numbers for transformations, different for each worker."""

    @property
    @abstractmethod
    def needs_random(self) -> bool:
        """Whether batches depend on the seed."""

    @abstractmethod
    def shapes(self) -> list[Shape]:
        """Read the first record and return the shapes of its batch. Called once, before `begin`."""

    def begin(self, seed: int, worker: int, workers: int) -> None:
        """Make the next batch the first one of worker `worker` of `workers`; equal arguments give equal batches.

        Record r, counted over all rounds, is for worker `r % workers`: together they load every record once per
        round. All workers must have the same seed.
        """
        self.workers = workers
        self.order = np.random.default_rng((seed, 0))
        self.random = np.random.default_rng((seed, 1, worker))

    def place(self) -> dict[str, Any]:
        """Return where the next batch begins, after `begin`."""
        return {"random": random_state(self.random)}

    def go_on(self, place: Mapping[str, Any]) -> None:
        """Make the next batch the one that followed when `place` has returned this; called after `begin`."""
        set_random_state(self.random, place["random"])

    @abstractmethod
    def load(self, checkpoint: Checkpoint) -> Batch:
        """Return the next batch."""

    def close(self) -> None:  # noqa: B027 - not all loaders keep something open
        """Release files and threads; safe to repeat."""


class Source(Loader):
    """A loader of records that workers take in turn: it skips `workers - 1` records after each one taken."""

    def __init__(self) -> None:
        super().__init__()
        self._due = 0
        """Distance, in records, to the next one for this worker."""
        self._passed = 0
        """Records from the first one to the newest of this worker."""

    def begin(self, seed: int, worker: int, workers: int) -> None:
        super().begin(seed, worker, workers)
        self.rewind()
        skipped = int(self.random.integers(self.rand_skip)) if self.rand_skip and workers == 1 else 0
        self._due = worker + skipped
        self._passed = 0

    def place(self) -> dict[str, Any]:
        return {**super().place(), "passed": self._passed}

    def go_on(self, place: Mapping[str, Any]) -> None:
        super().go_on(place)
        self._passed, self._due = int(place["passed"]), self.workers
        self.advance(self._passed)

    def take_turn(self) -> None:
        """Go to the next record for this worker; call it before reading each one."""
        self.advance(self._due)
        self._passed += self._due
        self._due = self.workers

    @property
    def rand_skip(self) -> int:
        """Upper bound of the random number of records to skip at the start, if no workers share them."""
        return 0

    @abstractmethod
    def rewind(self) -> None:
        """Go to the first record of the first round; `order` is fresh."""

    @abstractmethod
    def advance(self, count: int) -> None:
        """Skip `count` records, beginning with the current one, and start a new round after the last."""


class Feed:
    """A loader and, while batches are needed, the thread that runs it."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader
        self.prefetcher: Prefetcher[tuple[Batch, dict[str, Any]]] | None = None

    def start(self, depth: int, name: str) -> Prefetcher[tuple[Batch, dict[str, Any]]]:
        """Return the thread, started if there is none; with each batch comes the place that follows it."""
        if self.prefetcher is None:
            self.prefetcher = Prefetcher(self._load, depth, name)
        return self.prefetcher

    def _load(self, checkpoint: Checkpoint) -> tuple[Batch, dict[str, Any]]:
        return self.loader.load(checkpoint), self.loader.place()

    def stop(self) -> None:
        """End the thread, but leave the loader open."""
        if self.prefetcher is not None:
            self.prefetcher.close()
            self.prefetcher = None

    def close(self) -> None:
        """End the thread and close the loader; safe to repeat."""
        self.stop()
        self.loader.close()


class PrefetchingLayer(Layer):
    """A layer without bottoms whose batches a thread loads ahead, from the first `forward` to `close`."""

    bottom_range: ClassVar[Range] = (0, 0)
    top_range: ClassVar[Range] = (2, 2)
    keeps_state: ClassVar[bool] = True

    def __init__(self, spec: LayerParameter, phase: int) -> None:
        super().__init__(spec, phase)
        self._feed: Feed | None = None
        self._shapes: list[Shape] = []
        self._turn = (0, 0, 1)
        self._place: Mapping[str, Any] = {}
        """Where the next batch begins; empty: at the first one."""

    @abstractmethod
    def make_loader(self) -> Loader:
        """Return the loader for `spec`.

        What is wrong with it or its data is a `ValueError`, `DataError`, `CaffeError` or `OSError` here or in the
        loader's `shapes`.
        """

    def make(self, bottoms: Sequence[Shape], generator: torch.Generator | None) -> None:
        """Open the data and read the first record.

        Args:
            bottoms: none.
            generator: draws the seed; None: torch's default one.

        Raises:
            ModelError: the definition or the data are not valid.
        """
        self.close()
        if not self.spec.data_param.prefetch:
            raise self.error("data_param: prefetch must be positive")
        try:
            self._feed = Feed(self.make_loader())
            weakref.finalize(self, self._feed.close)
            self._shapes = self._feed.loader.shapes()
        except (CaffeError, DataError, OSError, ValueError) as error:
            self.close()
            raise self.error(str(error)) from error
        self._turn = (seed_from(generator) if self._feed.loader.needs_random else 0, 0, 1)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return the shapes of the first batch."""
        return self._shapes

    def shard(self, worker: int, workers: int, seed: int = 0) -> None:
        """Load only every `workers`-th record, starting with number `worker`, counted from 0 over all rounds.

        Call it before the first batch.

        Args:
            worker: number of this worker, from 0.
            workers: number of workers that share the records.
            seed: seed of the order of shuffled records, which must be equal in all workers; random crops
                and mirroring depend on the worker as well.

        Raises:
            ValueError: `worker` is not in 0 to `workers - 1`, or batches have been loaded.
        """
        if not 0 <= worker < workers:
            raise ValueError(f"worker ({worker}) must be at least 0 and less than workers ({workers})")
        if self._feed is not None and self._feed.prefetcher is not None:
            raise ValueError("shard() must be called before the first batch")
        self._turn = (seed if workers > 1 else self._turn[0], worker, workers)

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        """Return the next batch, waiting for it if necessary.

        Args:
            *bottoms: none.

        Returns:
            The tops.

        Raises:
            ModelError: a record is not valid; the message names layer and record.
            ValueError: the layer is closed.
        """
        if self._feed is None:
            raise ValueError(f"layer {self.name!r} is closed")
        try:
            if self._feed.prefetcher is None:
                self._feed.loader.begin(*self._turn)
                if self._place:
                    self._feed.loader.go_on(self._place)
            batch, self._place = self._feed.start(self.spec.data_param.prefetch, self.name).get()
        except (CaffeError, DataError, OSError) as error:
            raise self.error(str(error)) from error
        return tuple(torch.from_numpy(array) for array in batch)

    def rewind(self) -> None:
        """Make the next batch the first one again, with the same random choices."""
        self._place = {}
        if self._feed is not None:
            self._feed.stop()

    def place(self) -> dict[str, Any]:
        return {"turn": list(self._turn), "loader": dict(self._place)}

    def go_on(self, place: Mapping[str, Any]) -> None:
        self.rewind()
        seed, worker, workers = place["turn"]
        self._turn, self._place = (seed, worker, workers), place["loader"]

    def close(self) -> None:
        """End the thread and close the files; safe to repeat. There are no batches after that."""
        if self._feed is not None:
            self._feed.close()
            self._feed = None


class Decoders:
    """Threads that decode images, one per core of this process, at most eight.

    With one core there are no threads; others start when they are first needed.
    """

    def __init__(self) -> None:
        cores = len(os.sched_getaffinity(0)) // workers_on_host()
        self._number = min(cores, MOST_DECODERS)
        self._threads: ThreadPoolExecutor | None = None

    def map(self, function: Callable[[A], B], items: Iterable[A], checkpoint: Checkpoint) -> list[B]:
        """Return `function` of each of `items`, in order; raise its first error."""
        results = []
        if self._number < 2:
            for item in items:
                checkpoint()
                results.append(function(item))
            return results
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._number, thread_name_prefix="modum decoder")
        futures = [self._threads.submit(function, item) for item in items]
        try:
            for future in futures:
                checkpoint()
                results.append(future.result())
        finally:
            for future in futures:
                future.cancel()
        return results

    def close(self) -> None:
        """End the threads; safe to repeat."""
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
            self._threads = None


def random_state(random: np.random.Generator) -> str:
    """Return the state of a generator, as text."""
    return json.dumps(random.bit_generator.state)


def set_random_state(random: np.random.Generator, state: str) -> None:
    """Have a generator go on from what `random_state` has returned."""
    random.bit_generator.state = json.loads(state)


def seed_from(generator: torch.Generator | None) -> int:
    """Return a seed drawn from `generator`, or from torch's default one."""
    return int(torch.randint(2**62, (), generator=generator))
