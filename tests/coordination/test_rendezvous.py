"""All members meet in the box."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from modum.box import Box
from modum.coordination.rendezvous import Rendezvous
from modum.errors import DeadlineError

Connect = Callable[[], Box]


def together(
    connect: Connect, act: Callable[[Rendezvous, int], Any], *, size: int = 3, name: str = "place"
) -> list[Any]:
    """What `act` returns for each of `size` members that come at the same time."""
    boxes = [connect() for _ in range(size)]

    def member(rank: int) -> Any:
        return act(Rendezvous(boxes[rank], name, rank=rank, size=size, timeout=20.0), rank)

    with ThreadPoolExecutor(size) as threads:
        return list(threads.map(member, range(size)))


def test_everybody_hears_what_everybody_told_by_rank(connect: Connect) -> None:
    told: Sequence[Any] = [{"port": 7500}, None, "10.0.0.5"]

    assert together(connect, lambda place, rank: place.gather(told[rank])) == [told] * 3


def test_rounds_do_not_mix(connect: Connect) -> None:
    def rounds(place: Rendezvous, rank: int) -> list[list[int]]:
        return [place.gather(100 * number + rank) for number in range(20)]

    expected = [[100 * number + rank for rank in range(3)] for number in range(20)]
    assert together(connect, rounds) == [expected] * 3


def test_a_place_made_anew_is_another_place(connect: Connect) -> None:
    assert together(connect, lambda place, rank: place.gather(rank), size=2) == [[0, 1]] * 2
    assert together(connect, lambda place, rank: place.gather(rank + 10), size=2) == [[10, 11]] * 2


def test_nothing_is_left_in_the_box(connect: Connect) -> None:
    together(connect, lambda place, rank: [place.gather(rank) for _ in range(2)], size=2)

    box = connect()
    assert [box.value(f"place/0/{number}/{rank}").get() for number in range(2) for rank in range(2)] == [None] * 4


def test_a_barrier_holds_until_all_have_come(connect: Connect) -> None:
    box = connect()
    came = box.counter("came")

    def pass_by(place: Rendezvous, _: int) -> int:
        came.add(1)
        place.barrier()
        return came.value

    assert together(connect, pass_by) == [3] * 3


def test_a_member_alone_meets_itself(box: Box) -> None:
    place = Rendezvous(box, "place", rank=0, size=1, timeout=0.0)

    assert place.gather("me") == ["me"]
    place.barrier()


def test_those_who_do_not_come_are_named(box: Box) -> None:
    Rendezvous(box, "place", rank=2, size=20, timeout=0.1)
    with pytest.raises(DeadlineError) as late:
        Rendezvous(box, "place", rank=1, size=20, timeout=0.1, what="modum.connect()").gather("me")
    assert str(late.value) == (
        "19 of 20 workers (rank 0, 2, 3, 4, 5, 6, 7, 8, ...) did not come to modum.connect() within 0.1 s\n"
        "HINT: look for the first error in their output; every worker has to come to modum.connect()"
    )
