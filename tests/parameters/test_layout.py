"""Where the tensors of a model lie in one vector."""

import pytest

from modum.parameters import FlatLayout, TensorSpec, check_specs, mixed, unique_names


def spec(name: str, *shape: int, dtype: str = "float32", trainable: bool = True) -> TensorSpec:
    return TensorSpec(name=name, shape=shape, dtype=dtype, trainable=trainable)


def test_what_trains_comes_first_and_every_tensor_begins_at_a_cache_line() -> None:
    layout = FlatLayout([spec("mean", 5, trainable=False), spec("w", 3, 7), spec("b"), spec("var", 5, trainable=False)])
    assert [one.name for one in layout.specs] == ["w", "b", "mean", "var"]
    assert layout.order == (1, 2, 0, 3)
    assert layout.starts == (0, 32, 48, 64)
    assert (layout.size, layout.trainable, layout.offset, layout.own) == (80, 48, 0, 80)


def test_two_bytes_an_element_make_twice_as_many_in_a_line() -> None:
    layout = FlatLayout([spec("w", 33, dtype="bfloat16"), spec("b", 1, dtype="bfloat16")])
    assert (layout.starts, layout.size) == ((0, 64), 96)


@pytest.mark.parametrize("members", [1, 2, 3, 7])
def test_the_members_slices_are_the_whole_vector(members: int) -> None:
    layouts = [FlatLayout([spec("w", 100), spec("b", 3)], members=members, rank=rank) for rank in range(members)]
    assert [(one.offset, one.offset + one.own) for one in layouts] == list(
        zip(layouts[0].bounds, layouts[0].bounds[1:], strict=False)
    )
    assert layouts[0].bounds[-1] == layouts[0].size == 128
    assert all(bound % 16 == 0 for bound in layouts[0].bounds)


def test_without_alignment_nothing_lies_between() -> None:
    layout = FlatLayout([spec("w", 3), spec("b", 2)], alignment=1)
    assert (layout.starts, layout.size) == ((0, 3), 5)


def test_a_tensor_says_in_words_what_must_be_alike() -> None:
    assert spec("w", 2, 3).text == "float32 (2, 3)"
    statistic = TensorSpec(name="m", shape=(4,), dtype="bfloat16", trainable=False, note="strides (1,)")
    assert statistic.text == "bfloat16 (4,) strides (1,) statistic"


def test_the_second_of_a_name_gets_a_number() -> None:
    assert unique_names(["a", "b", "a", "a"]) == ["a", "b", "a#2", "a#3"]


def test_what_the_box_cannot_hold_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="w is float64, but only float32 and bfloat16 can be shared: use float"):
        check_specs([spec("w", 2, dtype="float64")], "use float")
    with pytest.raises(ValueError, match="nothing is trainable"):
        check_specs([spec("m", 2, trainable=False)], "")


def test_mixed_statistics_lie_between_ours_and_the_shared_ones() -> None:
    ours, sent, shared, rate = 1.0, 4.0, 2.0, 0.25
    assert mixed(ours, sent, rate, rate * (sent - shared)) == (1 - rate) * ours + rate * shared
