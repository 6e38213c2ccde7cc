"""The factor on the learning rate."""

import pytest

from modum.averaging import LearningRateScale


def test_no_scale_is_a_factor_of_one() -> None:
    assert LearningRateScale().factor(1000, 16) == 1.0


def test_the_factor_follows_the_number_of_groups_or_its_square_root() -> None:
    linear, root = LearningRateScale(scale="linear"), LearningRateScale(scale="sqrt")
    assert [linear.factor(0, groups) for groups in (1, 4, 9)] == [1.0, 4.0, 9.0]
    assert [root.factor(0, groups) for groups in (1, 4, 9)] == [1.0, 2.0, 3.0]


def test_warming_up_grows_linearly_from_one_to_the_whole_factor() -> None:
    scale = LearningRateScale(scale=3.0, warmup_steps=4)
    assert [scale.factor(step, 1) for step in range(6)] == [1.0, 1.5, 2.0, 2.5, 3.0, 3.0]


def test_a_scale_that_makes_no_sense_is_refused_with_its_value() -> None:
    with pytest.raises(ValueError, match="'cubic'"):
        LearningRateScale(scale="cubic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\(-2"):
        LearningRateScale(scale=-2.0)
    with pytest.raises(ValueError, match=r"warmup_steps \(-1\)"):
        LearningRateScale(warmup_steps=-1)
