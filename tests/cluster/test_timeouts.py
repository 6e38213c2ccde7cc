"""One number says how long workers wait."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.processes import TIMEOUT

import modum
from modum.errors import DeadlineError
from modum.waiting import Timeouts

RUN = [sys.executable, "-m", "modum", "run"]
SCRIPT = "import modum\nwith modum.connect() as job: print(job.timeouts.connect)"


def test_it_comes_from_the_argument_or_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, given, expected in (("", None, 30), ("2min", None, 120), ("2min", 7, 7)):
        monkeypatch.setenv("MODUM_TIMEOUT", text)
        with modum.connect(timeout=given) as job:
            assert job.timeouts.connect == expected


@pytest.mark.parametrize("text", ["soon", "0s"])
def test_what_is_no_time_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODUM_TIMEOUT", text)
    with pytest.raises(ValueError, match=r"is not a time|must be positive"):
        modum.connect()


def test_a_place_to_meet_waits_by_it() -> None:
    with modum.connect() as box_owner:
        lonely = modum.Job(box_owner.box, world_size=2, timeouts=Timeouts(0.05))
        with pytest.raises(DeadlineError, match=r"0\.2"):
            lonely.rendezvous("alone").gather("here")


def test_the_option_reaches_the_workers(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    command = [*RUN, "-n", "2", "--timeout", "5min", "train.py"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False, cwd=tmp_path)
    assert sorted(result.stdout.splitlines()) == ["[0] 300.0", "[1] 300.0"], result.stderr
