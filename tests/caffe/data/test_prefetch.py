"""Loading ahead: in order, no further than told, and over when it is."""

import gc
import itertools
import threading
from collections.abc import Callable

import pytest

from modum.caffe.data.prefetch import Prefetcher


def counting() -> Callable[[Callable[[], None]], int]:
    numbers = itertools.count()
    return lambda _: next(numbers)


def test_results_come_in_the_order_in_which_they_are_made() -> None:
    prefetcher = Prefetcher(counting(), 3, "test")
    assert [prefetcher.get() for _ in range(20)] == list(range(20))
    prefetcher.close()


def test_as_many_results_as_told_are_made_ahead_and_no_more() -> None:
    made: list[int] = []
    enough, go_on = threading.Event(), threading.Event()

    def load(_: Callable[[], None]) -> int:
        made.append(len(made))
        if len(made) == 3:
            enough.set()
        if len(made) == 4:
            go_on.set()
        return made[-1]

    prefetcher = Prefetcher(load, 3, "test")
    assert enough.wait(30)
    assert made == [0, 1, 2]
    assert prefetcher.get() == 0
    assert go_on.wait(30)
    prefetcher.close()
    assert made == [0, 1, 2, 3]


def test_an_exception_of_the_thread_is_raised_after_the_results_before_it_and_again() -> None:
    numbers = iter([1, 2])
    prefetcher = Prefetcher(lambda _: 6 // (2 - next(numbers)), 4, "test")
    assert prefetcher.get() == 6
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            prefetcher.get()
    prefetcher.close()


def test_closing_ends_a_load_at_its_next_checkpoint() -> None:
    begun = threading.Event()

    def load(checkpoint: Callable[[], None]) -> None:
        begun.set()
        while True:
            checkpoint()

    prefetcher = Prefetcher(load, 1, "endless")
    assert begun.wait(30)
    prefetcher.close()
    prefetcher.close()
    assert not [thread for thread in threading.enumerate() if "endless" in thread.name]
    with pytest.raises(ValueError, match="closed"):
        prefetcher.get()


def test_a_forgotten_prefetcher_ends_its_thread() -> None:
    prefetcher = Prefetcher(counting(), 1, "forgotten")
    assert prefetcher.get() == 0
    del prefetcher
    gc.collect()
    assert not [thread for thread in threading.enumerate() if "forgotten" in thread.name]


def test_at_least_one_result_is_kept() -> None:
    with pytest.raises(ValueError, match=r"depth \(0\) must be at least 1"):
        Prefetcher(counting(), 0, "test")
