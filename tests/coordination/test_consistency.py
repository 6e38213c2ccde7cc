"""The first worker makes the shared model; the others must match it."""

from collections.abc import Callable

import numpy as np
import pytest

from modum.averaging import join
from modum.box import Box
from modum.coordination.consistency import agree, compare, open_alike
from modum.errors import BufferNotFoundError, MismatchError
from modum.parameters import ArrayVector

Connect = Callable[[], Box]

META = {"tensors": [["weight", "float32 (2, 3)"], ["bias", "float32 (3,)"]], "settings": {"interval": 4}}


def vector(value: float) -> ArrayVector:
    return ArrayVector(np.full(9, value, np.float32))


def test_the_first_worker_writes_its_weights_and_the_second_does_not(connect: Connect) -> None:
    (first,) = join(connect(), "model", [vector(1)], META, timeout=5)
    (second,) = join(connect(), "model", [vector(2)], META, timeout=5)
    assert second.read().tolist() == first.read().tolist() == [1.0] * 9
    first.close()
    second.close()


def test_the_next_worker_writes_if_the_first_died_before_it_wrote(connect: Connect) -> None:
    connect().create("model/float32", 9, meta=META).close()
    (buffer,) = join(connect(), "model", [vector(2)], META, timeout=5)
    assert buffer.read().tolist() == [2.0] * 9
    buffer.close()


def test_a_worker_that_differs_is_refused_and_leaves_the_shared_weights_alone(connect: Connect) -> None:
    (buffer,) = join(connect(), "model", [vector(1)], META, timeout=5)
    other = {**META, "settings": {"interval": 8}}
    with pytest.raises(MismatchError, match="interval: shared 4, here 8"):
        join(connect(), "model", [vector(2)], other, timeout=5)
    assert buffer.read().tolist() == [1.0] * 9
    (again,) = join(connect(), "model", [vector(3)], META, timeout=5)  # the refused one holds no lock
    buffer.close()
    again.close()


def test_opening_needs_a_buffer_whose_maker_has_the_same_settings(connect: Connect) -> None:
    with pytest.raises(BufferNotFoundError):
        open_alike(connect(), "settings", META)
    made = connect().create("settings", 1, "int64", meta=META)
    made.write(np.array([7]))
    opened = open_alike(connect(), "settings", META)
    assert opened.read().tolist() == [7]
    opened.close()
    made.close()


def test_the_first_workers_settings_are_everybodys(connect: Connect) -> None:
    ours = {"pipeline": {"stages": 2, "mode": "synchronous", "ahead": 0}}
    for box in (connect(), connect()):
        agree(box, "settings", ours)
    for stages in (3, 4):
        with pytest.raises(MismatchError, match=f"worker of 'settings':\n  stages: shared 2, here {stages}\n"):
            agree(connect(), "settings", {"pipeline": {**ours["pipeline"], "stages": stages}})


def test_agreeing_looks_at_the_order_too(connect: Connect) -> None:
    agree(connect(), "model", META)
    agree(connect(), "model", META)
    with pytest.raises(MismatchError, match="tensors: the same names, but in another order"):
        agree(connect(), "model", {**META, "tensors": META["tensors"][::-1]})  # type: ignore[index]


def test_every_kind_of_difference_is_named_with_both_values() -> None:
    here = {
        "tensors": [["weight", "float32 (4, 3)"], ["scale", "float32 (1,)"]],
        "settings": {"interval": "auto"},
    }
    with pytest.raises(MismatchError) as refusal:
        compare("model", META, here)
    assert str(refusal.value).splitlines() == [
        "this worker differs from the first worker of 'model':",
        "  weight: shared float32 (2, 3), here float32 (4, 3)",
        "  bias: shared float32 (3,), here nothing",
        "  scale: shared nothing, here float32 (1,)",
        "  interval: shared 4, here auto",
        "Start every worker with the same model and settings, or use another name.",
    ]


def test_only_the_first_differences_are_spelled_out() -> None:
    names = [f"layer{number}" for number in range(12)]
    shared = {"tensors": [[name, "float32 (1,)"] for name in names]}
    here = {"tensors": [[name, "float32 (2,)"] for name in names]}
    with pytest.raises(MismatchError, match=r"layer4: shared .*\n  and 7 more") as refusal:
        compare("model", shared, here)
    assert "layer5" not in str(refusal.value)


def test_another_order_of_the_same_tensors_is_a_difference() -> None:
    here = {**META, "tensors": META["tensors"][::-1]}  # type: ignore[index]
    with pytest.raises(MismatchError, match="tensors: the same names, but in another order"):
        compare("model", META, here)
