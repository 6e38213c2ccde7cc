"""A group's agreements through the box; members are threads."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

from modum.box import Box
from modum.groups import BoxGroup


def together(members: list[BoxGroup], act: Callable[[BoxGroup], Any]) -> list[Any]:
    with ThreadPoolExecutor(len(members)) as pool:
        return list(pool.map(act, members, timeout=60))


def test_members_agree_again_and_again_though_some_are_ahead(connect: Callable[[], Box]) -> None:
    with ExitStack() as stack:
        members = [BoxGroup(connect(), "group", rank=rank, size=3) for rank in range(3)]
        for member in members:
            stack.callback(member.close)

        def act(member: BoxGroup) -> list[Any]:
            said: list[Any] = []
            for number in range(50):
                said.append(member.largest([member.rank * number, -member.rank, 0.5]))
                said.append(member.broadcast(2**40 + number + member.rank))
            return said

        expected = [each for number in range(50) for each in ((2.0 * number, 0.0, 0.5), 2**40 + number)]
        assert together(members, act) == [expected] * 3


def test_a_group_of_one_agrees_with_itself(box: Box) -> None:
    alone = BoxGroup(box, "alone", rank=0, size=1)
    assert alone.largest([1, -2]) == (1.0, -2.0)
    assert alone.broadcast(-7) == -7
    alone.close()
