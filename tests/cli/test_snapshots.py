"""`modum server` and its snapshots: on disks that are full or read-only, after a SIGKILL, and as a user sees them."""

import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tests.box.processes import line_of
from tests.cli.test_server import modum
from tests.support import until

from modum.box import Box, SnapshotStatistics
from modum.box.protocol.limits import CHUNK
from modum.errors import SnapshotError

ALONE = ["unshare", "--mount"]
"""Runs a command whose mounts nobody else sees, and that go with it."""


@contextmanager
def server(folder: Path, *options: str, before: str = "") -> Iterator[tuple["subprocess.Popen[str]", Box]]:
    """Run `modum server` with snapshots in `folder`: (the process, a box of it); with a shell command before it."""
    command = [sys.executable, "-m", "modum", "server", "--port", "0", "--memory", "64MiB", "--snapshot-name", "a"]
    command += ["--snapshot-dir", str(folder), *options]
    if before:
        command = [*ALONE, "sh", "-c", f'{before} && exec "$@"', "sh", *command]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        address = line_of(process).rpartition(" ")[2]
        with Box.connect(address, transport="tcp", timeout=10) as box:
            yield process, box
    finally:
        process.kill()
        process.communicate()


def statistics(box: Box) -> SnapshotStatistics:
    (one,) = box.statistics().servers
    assert one.snapshots is not None
    return one.snapshots


def works(box: Box) -> bool:
    """Whether the server still counts."""
    return box.counter("still there").add(1) >= 0


def words_of(process: "subprocess.Popen[str]") -> list[str]:
    """Stop the server, and return the lines of its standard error."""
    process.terminate()
    _, words = process.communicate(timeout=20)
    return words.splitlines()


@pytest.fixture
def mounts() -> None:
    """Skip where nothing may be mounted."""
    tried = subprocess.run([*ALONE, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False)
    if tried.returncode:
        pytest.skip(f"a file system cannot be mounted here: {tried.stderr.decode().strip()}")


@pytest.mark.usefixtures("mounts")
def test_a_full_disk_stops_no_server_and_loses_no_snapshot(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = f"mount -t tmpfs -o size=9m tmpfs {folder}"
    with server(folder, "--snapshot-every", "never", before=mount) as (process, box):
        seen = Path(f"/proc/{process.pid}/root{folder}")
        box.create("w", 3 * CHUNK // 4).write(np.ones(3 * CHUNK // 4, np.float32))
        (first,) = box.snapshot()
        box.create("v", 4 * CHUNK // 4)
        with pytest.raises(SnapshotError, match=rf"snapshot failed: {folder}.*: No space left on device"):
            box.snapshot()
        assert works(box)
        assert sorted(each.name for each in (seen / "a").iterdir()) == ["latest", "lock", "snapshot-00000001"]
        assert load_file(seen / "a" / "latest" / "1.safetensors")["w"].sum() == 3 * CHUNK // 4
        assert (statistics(box).path, statistics(box).taken) == (first, 1)
        box.delete("v")
        assert box.snapshot() == (f"{folder}/a/snapshot-00000002",)
        failed, again = words_of(process)
    assert failed.startswith(f"snapshot to {folder}/a failed: No space left on device; the server goes on, and tries")
    assert again == f"snapshots to {folder}/a work again"


@pytest.mark.usefixtures("mounts")
def test_a_disk_that_becomes_read_only_is_tried_again(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = f"mount -t tmpfs tmpfs {folder}"
    with server(folder, "--snapshot-every", "200ms", before=mount) as (process, box):
        until(lambda: statistics(box).taken > 0)
        into = ["nsenter", "--mount", "--target", str(process.pid), "mount", "-o"]

        def remount(how: str) -> bool:
            return subprocess.run([*into, f"remount,{how}", folder], capture_output=True, check=False).returncode == 0

        until(lambda: remount("ro"))  # refused while a file is open for writing
        until(lambda: statistics(box).failure.endswith(": Read-only file system"))
        taken, attempts = statistics(box).taken, statistics(box).attempts
        until(lambda: statistics(box).attempts >= attempts + 2)
        assert statistics(box).taken == taken
        assert works(box)
        assert remount("rw")
        until(lambda: statistics(box).taken > taken)
        assert statistics(box).failure == ""


@pytest.mark.usefixtures("mounts")
def test_a_server_starts_though_it_cannot_write_yet(tmp_path: Path) -> None:
    mount = f"mount -t tmpfs -o ro tmpfs {tmp_path}"
    with server(tmp_path, "--snapshot-every", "never", before=mount) as (process, box):
        assert works(box)
        with pytest.raises(SnapshotError, match=f"snapshot failed: {tmp_path}/a: Read-only file system"):
            box.snapshot()
        failed, again = words_of(process)
    reason = "Read-only file system; the server goes on, and tries again when it is asked to"
    assert failed == f"snapshot to {tmp_path}/a failed: {reason}"
    assert again == failed


def test_files_that_may_not_get_so_large_stop_no_server(tmp_path: Path) -> None:
    with server(tmp_path) as (process, box):
        box.create("w", CHUNK)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (CHUNK, resource.RLIM_INFINITY))
        with pytest.raises(SnapshotError, match=f"snapshot failed: {tmp_path}/a: File too large"):
            box.snapshot()
        assert works(box)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        box.snapshot()
        assert sorted(each.name for each in (tmp_path / "a").iterdir()) == ["latest", "lock", "snapshot-00000001"]


def newest(folder: Path) -> Path:
    """Return the only file of numbers in the latest snapshot."""
    (file,) = (folder / "a" / "latest").glob("*.safetensors")
    return file


def test_whenever_a_server_is_killed_the_latest_snapshot_is_whole(tmp_path: Path) -> None:
    """Every element goes up by 1 at once, so that what comes back must be one number, and never less than before."""
    moments = random.Random(11)  # noqa: S311
    count = 40_000  # less than a chunk
    least = 0.0
    unfinished = 0
    for turn in range(12):
        options = ["--snapshot-every", "1ms", "--snapshots-kept", "2"]
        options += ["--restore", str(tmp_path)] if turn else []
        with server(tmp_path, *options) as (process, box):
            buffer = box.open_or_create("w", count)
            numbers = buffer.read()
            assert (numbers == numbers[0]).all()
            assert numbers[0] >= least
            ones = np.ones(count, np.float32)
            before = statistics(box).taken
            end = time.monotonic() + 0.05 + moments.uniform(0.0, 0.1)
            while time.monotonic() < end or statistics(box).taken < before + 2:
                buffer.add(ones)
            process.send_signal(signal.SIGKILL)
            process.wait()
        loaded = load_file(newest(tmp_path))["w"]
        assert (loaded == loaded[0]).all()
        assert loaded[0] > least
        least = loaded[0]
        unfinished += any(each.name.startswith(".") for each in (tmp_path / "a").iterdir())
    assert unfinished, "no server was killed while it wrote"


def test_status_shows_the_last_snapshot_and_the_last_failure(tmp_path: Path) -> None:
    with server(tmp_path) as (process, box):
        box.create("w", CHUNK)
        shown = modum("status", box.servers[0], "--seconds", "0.1", COLUMNS="200")
        assert f"none yet in {tmp_path}/a" in shown.stdout
        (path,) = box.snapshot()
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (CHUNK, resource.RLIM_INFINITY))
        with suppress(SnapshotError):
            box.snapshot()
        shown = modum("status", box.servers[0], "--seconds", "0.1", COLUMNS="200")
        (line,) = (line.split() for line in shown.stdout.splitlines() if path in line)
        assert (line[:2], line[4:6]) == ([box.servers[0], path], ["4", "MiB"])
        assert "the last snapshot failed" in shown.stdout
        assert f"ago: {tmp_path}/a: File too large" in shown.stdout


def test_a_restored_server_says_so_and_a_folder_without_a_good_snapshot_ends_the_command(tmp_path: Path) -> None:
    with server(tmp_path) as (_, box):
        box.create("w", 10)
        (path,) = box.snapshot()
    with server(tmp_path, "--restore", str(tmp_path)) as (process, box):
        assert [info.name for info in box.list()] == ["w"]
        (line,) = words_of(process)
        assert line.startswith(f"restored 1 buffer from {path}, which was taken ")
    (Path(path) / "manifest.json").unlink()
    failed = modum("server", "--port", "0", "--snapshot-name", "a", "--restore", str(tmp_path))
    assert failed.returncode == 1
    assert (
        f"error: no snapshot in {tmp_path}/a is good: snapshot-00000001: manifest.json cannot be read" in failed.stderr
    )
    failed = modum("server", "--port", "0", "--restore", str(tmp_path))
    assert failed.returncode == 1
    assert f"error: there is no snapshot in {tmp_path}/127.0.0.1-0\nHINT: {tmp_path} has those of a:" in failed.stderr


def test_options_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    alone = modum("server", "--snapshots-kept", "2", COLUMNS="200")
    assert "mean nothing without --snapshot-dir" in alone.stderr
    every = modum("server", "--snapshot-dir", str(tmp_path), "--snapshot-every", "often", COLUMNS="200")
    assert "is not a time; write it like" in " ".join(every.stderr.split())


TRAIN = """
import sys
import numpy as np
import modum
with modum.connect() as job:
    buffer = job.box.open_or_create("w", 100_000)
    buffer.add(np.ones(100_000, np.float32))
    if len(sys.argv) > 1:
        print(*job.snapshot(), flush=True)
    print("found", int(buffer.read().min()), int(buffer.read().max()), flush=True)
"""


def run(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    (folder / "train.py").write_text(TRAIN)
    return subprocess.run(
        [sys.executable, "-m", "modum", "run", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "COLUMNS": "200"},
        check=False,
    )


def test_a_run_goes_on_from_the_snapshot_of_another(tmp_path: Path) -> None:
    first = run(tmp_path, "--servers", "2", "--snapshot-dir", "D", "train.py", "go")
    assert first.returncode == 0, first.stderr
    assert "D/server-0/snapshot-00000001" in first.stdout
    second = run(tmp_path, "--servers", "2", "--snapshot-dir", "D", "--restore", "D", "train.py")
    assert second.returncode == 0, second.stderr
    assert "found 2 2" in second.stdout
    assert "[server 1] restored 1 buffer from D/server-1/snapshot-00000001" in second.stderr


def test_a_run_with_another_number_of_servers_is_refused(tmp_path: Path) -> None:
    run(tmp_path, "--servers", "2", "--snapshot-dir", "D", "train.py", "go")
    failed = run(tmp_path, "--restore", "D", "train.py")
    assert failed.returncode == 2
    assert "the snapshots in D are of 2 memory servers, not of 1" in failed.stderr
    assert "HINT: --servers 2" in failed.stderr
    with_box = run(tmp_path, "--box", "127.0.0.1:1", "--restore", "D", "train.py")
    assert "--restore and --resume mean nothing with it" in " ".join(with_box.stderr.split())
