"""The conformance suite of groups: what every `modum.groups.Group` must do."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from modum.groups import Group

T = TypeVar("T")
Array = NDArray[Any]
ROUNDS = 20


def check_group(group: Group[T], made: Callable[[Array], T], values: Callable[[T], Array]) -> None:
    """Check a group; every member calls this, at the same time.

    Args:
        group: a group of any size, also of one member.
        made: converts a NumPy array, float32, to the group's kind of array.
        values: the reverse.

    Raises:
        AssertionError: the group does not do what `Group` says; the message shows the result and what was expected.
    """
    rank, size = group.rank, group.size
    _equal((0 <= rank < size, True), "rank is from 0 to size - 1")
    for number in range(ROUNDS):  # some members are ahead of others
        _equal((group.largest([number * rank, -rank, 0.5]), (float(number * (size - 1)), 0.0, 0.5)), "largest")
        _equal((group.broadcast(2**40 + number + rank), 2**40 + number), "broadcast gives the leader's")
    numbers = np.arange(6, dtype=np.float32)
    mean = numbers * np.float32((size - 1) / 2)
    (found,) = group.average([made(numbers * np.float32(rank))])
    _same(values(_there(found)), mean, "average")
    _check_missing(group, made, values)
    like = [made(numbers), made(numbers.reshape(2, 3))]
    aligned = group.align([made(numbers + rank), made(numbers.reshape(2, 3) * np.float32(rank + 2))])
    _same(values(aligned[0]), numbers, "align, to the bit")
    _same(values(aligned[1]), numbers.reshape(2, 3) * np.float32(2), "align, to the bit")
    lengths = [2 + member for member in range(size)]
    whole = group.gather(made(np.full(lengths[rank], rank, np.float32)), lengths)
    _same(values(whole), np.repeat(np.arange(size, dtype=np.float32), lengths), "gather of parts of several lengths")
    equal = group.gather(made(np.full(3, rank, np.float32)), [3] * size)
    _same(values(equal), np.repeat(np.arange(size, dtype=np.float32), 3), "gather")
    _equal(([values(one).shape for one in like], [(6,), (2, 3)]), "what is only looked at stays")


def _check_missing(group: Group[T], made: Callable[[Array], T], values: Callable[[T], Array]) -> None:
    """Check arrays that only some members lack, and one that all lack."""
    rank, size = group.rank, group.size
    shapes: Sequence[tuple[int, ...]] = ((3,), (2, 2), (4,), (1,))
    full = [np.full(shape, 2.0 + rank, np.float32) for shape in shapes]
    # the first is missing in the leader alone, the second in all others, the third in all, the last in none
    missing = [rank == 0 and size > 1, rank > 0, True, False]
    arrays = [None if lacks else made(array) for lacks, array in zip(missing, full, strict=True)]
    found = group.average(arrays, [made(array) for array in full], purpose="missing")
    first = sum(2.0 + member for member in range(size) if member or size == 1) / size
    last = sum(2.0 + member for member in range(size)) / size
    due = (first, 2.0 / size, None, last)
    for got, value, shape in zip(found, due, shapes, strict=True):
        if value is None:
            _equal((got, None), "an array that is missing in all members stays None")
        else:
            _same(values(_there(got)), np.full(shape, value, np.float32), "a missing array counts as zero")


def _there(array: T | None) -> T:
    assert array is not None, "an array that a member has must not become None"
    return array


def _same(found: Array, due: Array, what: str) -> None:
    assert found.shape == due.shape, f"{what}: shape {found.shape} came where {due.shape} was due"
    assert np.allclose(found, due, rtol=1e-6, atol=0), f"{what}: {found} came where {due} was due"


def _equal(pair: tuple[Any, Any], what: str) -> None:
    assert pair[0] == pair[1], f"{what}: {pair[0]} came where {pair[1]} was due"
