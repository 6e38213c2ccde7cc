"""Load ahead: one thread per layer prepares batches while the net computes."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Prefetcher", "StoppedError"]

T = TypeVar("T")


class StoppedError(Exception):
    """Raised by `checkpoint` in the loading thread when its batches are no longer needed."""


class _State(Generic[T]):
    """State shared by the owner and the thread, which refers only to this, so that it does not keep the owner alive."""

    def __init__(self, load: Callable[[Callable[[], None]], T], depth: int) -> None:
        self.load = load
        self.depth = depth
        self.ready: deque[T] = deque()
        self.error: BaseException | None = None
        self.stopping = False
        self.changed = threading.Condition()

    def checkpoint(self) -> None:
        if self.stopping:
            raise StoppedError

    def run(self) -> None:
        try:
            while True:
                with self.changed:
                    self.changed.wait_for(lambda: self.stopping or len(self.ready) < self.depth)
                self.checkpoint()
                batch = self.load(self.checkpoint)
                with self.changed:
                    self.ready.append(batch)
                    self.changed.notify_all()
        except StoppedError:
            pass
        except BaseException as error:  # noqa: BLE001 - raised where the batch is requested
            with self.changed:
                self.error = error
                self.changed.notify_all()

    def stop(self, thread: threading.Thread) -> None:
        with self.changed:
            self.stopping = True
            self.changed.notify_all()
        thread.join()


class Prefetcher(Generic[T]):
    """Calls `load` on a separate thread, and keeps up to `depth` results until they are requested.

    `load` gets a function `checkpoint` that it calls between records: it raises `StoppedError` when the
    prefetcher is being closed, so that closing takes no longer than one record.
    """

    def __init__(self, load: Callable[[Callable[[], None]], T], depth: int, name: str) -> None:
        if depth < 1:
            raise ValueError(f"depth ({depth}) must be at least 1")
        self._state = _State(load, depth)
        thread = threading.Thread(target=self._state.run, name=f"modum {name}", daemon=True)
        thread.start()
        self._finalizer = weakref.finalize(self, self._state.stop, thread)

    def get(self) -> T:
        """Wait for the next result.

        Returns:
            What `load` returned.

        Raises:
            Exception: the error of `load`, once all results before it were returned, and at every later call.
            ValueError: after `close`.
        """
        state = self._state
        with state.changed:
            if state.stopping:
                raise ValueError("this prefetcher is closed")
            state.changed.wait_for(lambda: state.ready or state.error is not None)
            if not state.ready:
                assert state.error is not None
                raise state.error
            batch = state.ready.popleft()
            state.changed.notify_all()
        return batch

    def close(self) -> None:
        """End the thread, waiting for it, and drop the remaining results; safe to repeat."""
        self._finalizer()
