from bench.timing import WARM_UP, take_turns, timed


def test_sides_take_turns_and_the_warm_up_is_not_counted() -> None:
    called: list[str] = []

    def side(name: str) -> float:
        called.append(name)
        return float(len(called))

    samples = take_turns({"ours": lambda: side("ours"), "theirs": lambda: side("theirs")}, rounds=3)
    assert called == ["ours", "theirs"] * (WARM_UP + 3)
    assert samples == {
        "ours": [2 * turn + 1.0 for turn in range(WARM_UP, WARM_UP + 3)],
        "theirs": [2 * turn + 2.0 for turn in range(WARM_UP, WARM_UP + 3)],
    }


def test_a_timed_act_is_done_once() -> None:
    done: list[int] = []
    assert timed(lambda: done.append(1))() >= 0
    assert done == [1]
