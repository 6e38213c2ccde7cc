"""A worker alone, and groups that meet through the box; members are threads."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest
from tests.processes import TIMEOUT

from modum.box import Box
from modum.errors import DeadlineError
from modum.groups import Alone, BoxGroup
from modum.testing import check_group


def identity(array: np.ndarray) -> np.ndarray:
    return array.copy()


def test_a_worker_alone_is_a_group() -> None:
    check_group(Alone(), identity, identity)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_group_through_the_box_does_what_groups_do(size: int, connect: Callable[[], Box]) -> None:
    with ExitStack() as stack, ThreadPoolExecutor(size) as pool:
        members = [BoxGroup(connect(), "group", rank=rank, size=size, timeout=TIMEOUT) for rank in range(size)]
        for member in members:
            stack.callback(member.close)
        list(pool.map(lambda member: check_group(member, identity, identity), members, timeout=60))


def test_a_member_that_does_not_come_is_not_waited_for_for_ever(box: Box) -> None:
    member = BoxGroup(box, "group", rank=0, size=2, timeout=0.1)
    with pytest.raises(DeadlineError):
        member.largest([1.0])


def test_a_missing_array_needs_others_like_it(box: Box) -> None:
    with pytest.raises(ValueError, match="like="):
        BoxGroup(box, "group", rank=0, size=2, timeout=TIMEOUT).average([None])
