"""Everything is killed at any moment; the same command goes on, and trains on each sample of the epoch once."""

import random
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from modum.box.snapshots.folder import snapshots_in
from modum.checkpoints.files import RECORD, WORKERS, newest_good
from modum.errors import SnapshotError
from tests.checkpoints.killing import SCRIPTS, Run, check_counts, newest


def sums(output: str, ranks: str) -> np.ndarray:
    """The sum of what the workers of some ranks, and the box, have at the end."""
    lines = [line.split() for line in output.splitlines()]
    parts = [np.array(line[2:], float) for line in lines if line[1] == "G" or (line[1] == "W" and line[0][1] in ranks)]
    total: np.ndarray = np.sum(parts, axis=0)
    return total


@pytest.mark.parametrize(("group_size", "seed"), [(1, 1), (2, 2)])
def test_each_sample_is_trained_on_once_whenever_all_are_killed(tmp_path: Path, group_size: int, seed: int) -> None:
    size = 240
    moments = random.Random(seed)  # noqa: S311
    options = ("-n", "2", "--group-size", str(group_size), "--snapshot-every", "150ms")
    done = 0
    for kills in (*[True] * (3 - group_size), False):
        run = Run(tmp_path, "counting.py", size, 0.01, 1, options=options)
        if not kills:
            break
        run.wait_for(newest(run.folder) + 1)
        time.sleep(moments.uniform(0, 0.3))  # any moment will do
        run.kill()
        counts = [check_counts(each, size, group_size) for each in snapshots_in(run.folder / WORKERS)]
        assert done < counts[-1]
        done = counts[-1]
    output, errors = run.end()
    assert "goes on from checkpoint D/workers/snapshot-" in errors
    assert "HINT: to train anew" not in errors
    np.testing.assert_allclose(sums(output, "01"[::group_size]), np.ones(size), atol=1e-4)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder with the checkpoints of a loop that was killed, and the lines that it had printed."""
    folder = tmp_path_factory.mktemp("killed")
    run = Run(folder, "drawing.py", 10_000, options=("--snapshot-every", "100ms"))
    run.wait_for(6)
    return folder, run.kill()[0].splitlines()


def test_a_loop_of_ones_own_goes_on_with_the_same_numbers(killed: tuple[Path, list[str]], tmp_path: Path) -> None:
    """What it had done after the checkpoint is done again, to the bit, in the resumed run: one worker is alone."""
    folder, before = killed
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True, symlinks=True)
    steps = len(before) + 10
    (snapshots_in(tmp_path / "D" / WORKERS)[-1] / RECORD).unlink()  # so that some steps come after the checkpoint
    output, errors = Run(tmp_path, "drawing.py", steps, options=("--snapshot-every", "100ms")).end()
    *again, end = output.splitlines()
    first = int(again[0].split()[1])
    assert 0 < first < len(before)
    assert again[: len(before) - first] == before[first:]
    assert end == f"[0] end {steps} {steps}"
    assert "goes on from checkpoint D/workers/snapshot-0000000" in errors
    assert f"drawing.py 10000, this run is of {SCRIPTS / 'drawing.py'} {steps}: optimizers go on" in errors
    finished, errors = Run(tmp_path, "drawing.py", steps, options=("--snapshot-every", "100ms")).end()
    assert "this run is of" not in errors
    assert finished.splitlines()[-1] == end


def test_few_checkpoints_are_kept_and_a_torn_file_costs_one(killed: tuple[Path, list[str]], tmp_path: Path) -> None:
    shutil.copytree(killed[0], tmp_path, dirs_exist_ok=True, symlinks=True)
    folder = tmp_path / "D"
    checkpoints = snapshots_in(folder / WORKERS)
    assert len(checkpoints) in (3, 4)
    said: list[str] = []
    found = newest_good(folder, said.append)
    assert found is not None
    assert (found[0], said) == (checkpoints[-1], [])

    state = checkpoints[-1] / "worker-0.3.state"
    state.write_bytes(state.read_bytes()[:-1])
    server = snapshots_in(folder / "server-0")
    found = newest_good(folder, said.append)
    assert found is not None
    assert found[0] == checkpoints[-2]
    (line,) = said
    assert line.startswith(f"checkpoint {checkpoints[-1]} is skipped: worker-0.3.state has ")

    for each in server:
        tensor = each / "1.safetensors"
        tensor.write_bytes(tensor.read_bytes()[:-1] + b"?")
    with pytest.raises(SnapshotError, match=f"no checkpoint in {folder} is good\n") as refused:
        newest_good(folder, said.append)
    assert f"  {checkpoints[-1].name}: worker-0.3.state has " in str(refused.value)
    assert f"  {checkpoints[-2].name}: server-0/snapshot-" in str(refused.value)
    assert "\nHINT: to begin anew" in str(refused.value)
    assert "server-0/snapshot-" in said[-1]
    (checkpoints[-1] / RECORD).unlink()
    with pytest.raises(SnapshotError):
        newest_good(folder, said.append)
    assert f"{RECORD} cannot be read: No such file" in said[-len(checkpoints)]


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("forgetful", "the checkpoint has scheduler kept with averager model, and this script keeps nothing"),
        ("renamed", "the checkpoint has no state of averager other, but of averager model, which this script has not"),
        ("careless", "this job goes on from a checkpoint, and this loop has begun without it"),
    ],
)
def test_a_script_that_was_changed_is_refused(
    killed: tuple[Path, list[str]], tmp_path: Path, kind: str, error: str
) -> None:
    shutil.copytree(killed[0], tmp_path, dirs_exist_ok=True, symlinks=True)
    _, errors = Run(tmp_path, "drawing.py", 10_000, kind, options=("--snapshot-every", "100ms")).end(status=1)
    assert error in errors


def test_other_numbers_of_workers_and_servers_are_refused(killed: tuple[Path, list[str]], tmp_path: Path) -> None:
    shutil.copytree(killed[0], tmp_path, dirs_exist_ok=True, symlinks=True)
    _, errors = Run(tmp_path, "drawing.py", 10, options=("-n", "2", "--servers", "3")).end(status=1)
    assert "the checkpoints in D are of -n 1 --servers 1, and this run has -n 2 --servers 3" in errors
    assert "HINT: give -n 1 --servers 1, or another folder" in errors
