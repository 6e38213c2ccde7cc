"""Cuts by name and by measurement, the same on all workers; wrong input is told what to do."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from modum.box import Box
from modum.errors import MismatchError
from modum.pipeline import Cuts, Layer, agree
from tests.jobs import job_of
from tests.pipeline.support import run_workers, unless_raised

NAMES = ("conv1", "conv2", "flatten", "dense1", "dense2", "softmax")


def measured() -> list[Layer]:
    return [Layer(name=name, seconds=time, nbytes=0) for name, time in zip(NAMES, (4, 4, 0, 2, 1, 1), strict=True)]


def never() -> Sequence[Layer]:
    raise AssertionError("nothing is to be measured here")


def cut(box: Box, rank: int = 0, world_size: int = 2, **options: Any) -> Cuts:
    settings: dict[str, Any] = {"stages": None, "at": None, "forbidden": {}, "measure": never, "name": "net", **options}
    return agree(job_of(box, rank, world_size), NAMES, **settings)


def test_names_say_where_a_stage_begins(box: Box) -> None:
    cuts = cut(box, rank=5, world_size=6, at=["conv2", "dense1"])
    assert (cuts.stages, cuts.index) == (3, 2)
    assert [cuts.layers[slice(*cuts.bounds(stage))] for stage in range(3)] == [NAMES[:1], NAMES[1:3], NAMES[3:]]
    assert cuts.own == (3, 6)


def test_the_first_worker_measures_for_all(connect: Callable[[], Box]) -> None:
    def worker(rank: int, box: Box) -> Cuts:
        return cut(box, rank, 6, stages=3, measure=measured if rank == 0 else never)

    boxes = [connect() for _ in range(6)]
    found = unless_raised(run_workers(worker, range(len(boxes)), boxes))
    assert {cuts.starts for cuts in found} == {(1, 2)}
    assert [cuts.index for cuts in found] == [0, 1, 2, 0, 1, 2]


def test_without_stages_there_are_as_many_as_workers(box: Box) -> None:
    assert cut(box, world_size=4, measure=measured).stages == 4
    assert cut(box, world_size=1).starts == ()


def test_a_worker_with_another_model_is_refused(connect: Callable[[], Box]) -> None:
    cut(connect(), measure=measured)
    message = r"rank 1 has 6 layers .* in 2 stages, but rank 0 has 6 .* in 2(?s:.)*HINT"
    job = job_of(connect(), 1, 2)
    with pytest.raises(MismatchError, match=message):
        agree(job, [*NAMES[:5], "other"], stages=2, at=None, forbidden={}, measure=never, name="net")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"at": ["dense3"]}, "none of the 6 layers is called 'dense3'. Did you mean dense"),
        ({"at": ["pooling"]}, "Did you mean conv1, conv2, flatten"),
        ({"at": ["conv1"]}, "'conv1' is the first layer"),
        ({"at": ["dense1", "conv2"], "world_size": 3}, "in the order of the model"),
        ({"at": ["dense1"], "stages": 3}, r"stages \(3\) and at \(it makes 2 stages\) differ"),
        ({"at": ["dense2"], "forbidden": {4: "dense1 is used again"}}, "before 'dense2': dense1 is used again"),
        ({"stages": 7, "world_size": 7}, r"stages \(7\) must be at most 6: the model has 6 layers"),
        ({"stages": 6, "world_size": 6, "forbidden": {4: "tied"}}, "at most 5: .* 1 places where no cut can lie"),
        ({"stages": 0}, r"stages \(0\) must be at least 1"),
        ({"stages": 3, "world_size": 4}, r"stages \(3\) must divide the number of workers \(4\)\nHINT: .*-n 3"),
    ],
)
def test_wrong_cuts_are_refused(options: dict[str, Any], message: str, box: Box) -> None:
    with pytest.raises(ValueError, match=message):
        cut(box, **options)
