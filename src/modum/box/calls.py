"""Calls that a pool's threads make, none of which outlives whoever asked for them."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, wait
from typing import Generic, TypeVar

T = TypeVar("T")


class Calls(Generic[T]):
    """A context manager: when it has ended, by whatever exception, none of the calls is under way or will be.

    What is raised in this thread meanwhile, a second Ctrl-C too, waits for those that have begun; the others are not
    made any more. So the caller's arrays are its own again.

    Args:
        calls: each is made once.
    """

    def __init__(self, calls: Sequence[Callable[[], T]]) -> None:
        self._waiting = dict(enumerate(calls))
        self._futures: dict[int, Future[T]] = {number: Future() for number in self._waiting}
        self._mutex = threading.Lock()

    def __enter__(self) -> "Calls[T]":
        return self

    def __exit__(self, *exception: object) -> None:
        raised: BaseException | None = None
        while True:
            try:
                self._withdraw()
                wait(self._futures.values())
                break
            except BaseException as error:  # noqa: BLE001  # whatever it is, others still use the caller's memory
                raised = raised or error
        try:
            if raised is not None:
                raise raised
        finally:
            raised = None  # its traceback holds this frame

    def hand_out(self, pool: Executor) -> None:
        """Have the threads of a pool make the calls; where there are none any more, make them here."""
        numbers = list(self._futures)
        try:
            for number in numbers:
                pool.submit(self._make, number)
        except RuntimeError:  # the interpreter is ending: there are no threads any more, but exit handlers may call
            for number in numbers:
                self._make(number)

    def results(self) -> list[T]:
        """Wait until the calls have ended, and return what they returned, in order.

        Returns:
            The results; after the end, of those calls that were made.

        Raises:
            Exception: the first of those that the calls raised.
        """
        wait(self._futures.values())
        return [future.result() for future in self._futures.values()]

    def _withdraw(self) -> None:
        with self._mutex:
            for number in self._waiting:
                self._futures.pop(number, None)
            self._waiting.clear()

    def _make(self, number: int) -> None:
        with self._mutex:
            call = self._waiting.pop(number, None)
        if call is None:
            return  # another thread was faster, or nobody waits for it any more
        future = self._futures[number]
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001  # it is raised where the result is asked for
            future.set_exception(error)
