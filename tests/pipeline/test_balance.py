"""Where the cuts are laid: compared with trying everything."""

from itertools import combinations, pairwise

import numpy as np
import pytest

from modum.pipeline import Layer, balance


def layers(seconds: list[float], nbytes: list[int]) -> list[Layer]:
    return [
        Layer(name=f"layer{number}", seconds=time, nbytes=size)
        for number, (time, size) in enumerate(zip(seconds, nbytes, strict=True))
    ]


@pytest.mark.parametrize("seed", range(20))
def test_no_other_cuts_are_better(seed: int) -> None:
    random = np.random.default_rng(seed)
    count, stages = int(random.integers(4, 10)), int(random.integers(2, 5))
    model = layers(random.exponential(1, count).tolist(), random.integers(1, 1000, count).tolist())
    forbidden = set(random.choice(np.arange(1, count), 1 if count - stages > 1 else 0, replace=False).tolist())

    def costs(cuts: tuple[int, ...]) -> tuple[float, float]:
        ends = [0, *cuts, count]
        parts = [model[lo:hi] for lo, hi in pairwise(ends)]
        slowest = max(sum(layer.seconds for layer in part) for part in parts)
        memory = max(sum(layer.nbytes for layer in part) * (stages - stage) for stage, part in enumerate(parts))
        return slowest, memory

    every = [costs(cuts) for cuts in combinations(sorted(set(range(1, count)) - forbidden), stages - 1)]
    fastest = min(slowest for slowest, _ in every)
    leanest = min(memory for slowest, memory in every if slowest <= fastest * (1 + 0.25) * (1 + 1e-9))
    found = balance(model, stages, forbidden=forbidden, slack=0.25)
    assert not set(found) & forbidden
    slowest, memory = costs(tuple(found))
    assert slowest <= fastest * 1.25 * (1 + 1e-9)
    assert memory == leanest


def test_equal_layers_are_shared_out_evenly() -> None:
    assert balance(layers([1.0] * 8, [0] * 8), 4) == [2, 4, 6]
    assert balance(layers([0.0] * 6, [100] * 6), 1) == []


def test_every_stage_has_parameters_if_that_costs_no_time() -> None:
    model = layers([0.1, 5.0, 0.1, 2.0, 0.1, 2.0], [0, 900, 0, 100, 0, 100])
    assert balance(model, 3) == [2, 4]
    assert balance(layers([1.0, 1.0], [0, 900]), 2) == [1]


def test_more_stages_than_places_are_refused() -> None:
    with pytest.raises(ValueError, match="4 stages need 3 cuts, but there are only 2 places"):
        balance(layers([1.0] * 4, [1] * 4), 4, forbidden={2})
