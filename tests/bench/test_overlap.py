import pytest
from bench.overlap import row_of


def step(wall: float, waited: float, covered: float, boundary: float = 0.001) -> dict[str, float]:
    return {"wall": wall, "waited": waited, "covered": covered, "boundary": boundary}


def test_waiting_for_a_core_is_not_held_against_the_exchange() -> None:
    steps = [step(0.1, 0.0, 0.0), step(0.15, 0.048, 0.06)] * 4
    row = row_of("torch", {"steps": steps, "transfers": [0.06] * 4}, quiet=True)
    assert row.measured == pytest.approx(2.0)
    assert row.ok
    assert "under an exchange 150.0 ms (+50 %)" in row.detail


def test_any_other_wait_is() -> None:
    steps = [step(0.1, 0.0, 0.0), step(0.15, 0.0, 0.06)] * 4
    row = row_of("torch", {"steps": steps, "transfers": [0.06] * 4}, quiet=True)
    assert row.measured == pytest.approx(50.0)
    assert not row.ok


def test_copying_is_what_some_boundaries_take_longer_than_the_others() -> None:
    steps = [step(0.1, 0.0, 0.0, 0.001)] * 6 + [step(0.1, 0.0, 0.05, 0.011)] * 2
    row = row_of("sleep", {"steps": steps, "transfers": [0.05]}, quiet=True)
    assert row.detail.endswith("snapshot and subtraction 20 ms")


@pytest.mark.parametrize(("covered", "which"), [(0.0, "no step"), (0.06, "every step")])
def test_without_both_kinds_of_step_there_is_no_figure(covered: float, which: str) -> None:
    with pytest.raises(ValueError, match=f"{which} of torch had an exchange under it"):
        row_of("torch", {"steps": [step(0.1, 0.0, covered)] * 4, "transfers": [0.06]}, quiet=True)
