"""A short storm of real servers, clients, signals and broken connections; `make chaos` makes a long one."""

from pathlib import Path

from tests.chaos.storm import Storm


def test_the_box_keeps_its_word_to_real_processes_that_are_cut_off_stopped_and_killed(tmp_path: Path) -> None:
    with Storm(tmp_path, seed=1, places=4) as storm:
        result = storm.run(operations=300, faults=20)

    assert result.wrong == ""
    assert result.history.acknowledged >= 300
    assert result.faults.total() >= 20
