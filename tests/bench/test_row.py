import pytest
from bench.row import Row


@pytest.mark.parametrize(("measured", "ok"), [(0.9, True), (0.8999, False)])
def test_what_should_be_large_is_held_to_its_bar(measured: float, ok: bool) -> None:
    row = Row(what="ratio", measured=measured, at_least=0.9, detail="")
    assert row.ok is ok
    assert row.bar == "at least 0.9"


@pytest.mark.parametrize(("measured", "ok"), [(40.0, True), (40.1, False)])
def test_what_should_be_small_is_held_to_its_bar(measured: float, ok: bool) -> None:
    row = Row(what="time", measured=measured, at_most=40, unit="us", detail="")
    assert row.ok is ok
    assert row.bar == "at most 40 us"


@pytest.mark.parametrize(
    ("measured", "figure"),
    [(0.854, "0.85 x"), (8.049, "8.05 x"), (26.04, "26.0 x"), (183.4, "183 x"), (-17.83, "-17.8 x")],
)
def test_a_figure_has_three_digits(measured: float, figure: str) -> None:
    assert Row(what="ratio", measured=measured, at_least=1, unit="x", detail="").figure == figure


def test_a_row_without_a_bar_is_a_mistake() -> None:
    with pytest.raises(AssertionError, match="one bar"):
        Row(what="ratio", measured=1.0, detail="")
