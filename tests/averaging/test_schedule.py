"""When an exchange is due, on a clock that the test moves."""

import pytest
from tests.support import Clock

from modum.averaging.schedule import WINDOW, Schedule


def run(schedule: Schedule, clock: Clock, steps: int, seconds: float) -> None:
    for _ in range(steps):
        schedule.resume()
        clock.now += seconds
        schedule.step()


def test_a_fixed_interval_is_due_every_so_many_steps() -> None:
    clock = Clock()
    schedule = Schedule(3, clock)
    due = []
    for step in range(1, 10):
        run(schedule, clock, 1, 1.0)
        if schedule.due:
            due.append(step)
            schedule.start(schedule.wanted)
    assert due == [3, 6, 9]


def test_what_is_put_off_stays_due_and_the_next_counts_from_its_start() -> None:
    schedule = Schedule(2)
    for _ in range(3):
        schedule.step()
    assert schedule.due
    schedule.start(2)
    schedule.step()
    assert not schedule.due
    schedule.step()
    assert schedule.due


def test_the_automatic_interval_begins_with_one() -> None:
    assert Schedule("auto").wanted == 1


@pytest.mark.parametrize(
    ("step", "exchange", "interval"), [(1.0, 0.5, 1), (1.0, 1.0, 1), (1.0, 1.5, 2), (0.25, 2.0, 8), (0.25, 2.1, 9)]
)
def test_the_automatic_interval_covers_the_exchange(step: float, exchange: float, interval: int) -> None:
    clock = Clock()
    schedule = Schedule("auto", clock)
    run(schedule, clock, 5, step)
    schedule.exchanged(exchange)
    assert schedule.wanted == interval


def test_one_slow_step_or_exchange_changes_nothing() -> None:
    clock = Clock()
    schedule = Schedule("auto", clock)
    run(schedule, clock, 4, 1.0)
    run(schedule, clock, 1, 1000.0)
    for seconds in (3.0, 3.0, 500.0):
        schedule.exchanged(seconds)
    assert schedule.wanted == 3


def test_old_measurements_are_forgotten() -> None:
    clock = Clock()
    schedule = Schedule("auto", clock)
    run(schedule, clock, WINDOW, 1.0)
    schedule.exchanged(6.0)
    run(schedule, clock, WINDOW, 2.0)
    assert schedule.wanted == 3


def test_time_outside_of_steps_does_not_count() -> None:
    clock = Clock()
    schedule = Schedule("auto", clock)
    for _ in range(5):
        schedule.resume()
        clock.now += 1.0
        schedule.step()
        clock.now += 10.0  # an exchange that was waited for
    schedule.exchanged(4.0)
    assert schedule.wanted == 4
