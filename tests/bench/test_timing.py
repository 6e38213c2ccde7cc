from collections.abc import Iterator

from bench.machine import OtherLoad
from bench.timing import WARM_UP, take_turns, timed


class Told(OtherLoad):
    """A load that is told beforehand."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self._share = share

    def share(self) -> float:
        return self._share


def counting() -> Iterator[float]:
    number = 0.0
    while True:
        number += 1
        yield number


def test_sides_take_turns_and_the_warm_up_is_not_counted() -> None:
    called: list[str] = []

    def side(name: str) -> float:
        called.append(name)
        return float(len(called))

    sides = {"ours": lambda: side("ours"), "theirs": lambda: side("theirs")}
    turns = take_turns(sides, rounds=3, watch=lambda: Told(0.0))
    assert called == ["ours", "theirs"] * (WARM_UP + 3)
    assert turns.quiet
    assert turns.samples == {"ours": [5.0, 7.0, 9.0], "theirs": [6.0, 8.0, 10.0]}
    assert turns.ratio("theirs", "ours") == 8 / 7
    assert turns.milliseconds("ours") == "7000.0 ms (best 5000.0)"


def test_disturbed_rounds_are_repeated() -> None:
    numbers, loads = counting(), iter([0.5, 0.0])
    turns = take_turns({"side": lambda: next(numbers)}, rounds=1, watch=lambda: Told(next(loads)))
    assert turns.quiet
    assert turns.samples == {"side": [WARM_UP + 2.0]}


def test_disturbed_rounds_count_once_the_time_is_over_and_are_told() -> None:
    numbers = counting()
    turns = take_turns({"side": lambda: next(numbers)}, rounds=2, watch=lambda: Told(0.5), timeout=0)
    assert not turns.quiet
    assert turns.samples == {"side": [WARM_UP + 1.0, WARM_UP + 2.0]}


def test_a_timed_act_is_done_once() -> None:
    done: list[int] = []
    assert timed(lambda: done.append(1))() >= 0
    assert done == [1]
