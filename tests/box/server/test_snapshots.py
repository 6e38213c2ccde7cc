"""Snapshots: what comes back, what is skipped, and what a server does when it cannot write."""

import logging
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tests.support import until

from modum.box import Box, Server, SnapshotSettings
from modum.box.kernels import STORAGE
from modum.box.protocol.layout import home_of
from modum.box.protocol.limits import CHUNK
from modum.errors import BufferNotFoundError, DeadlineError, MismatchError, PoolFullError, SnapshotError

BITS = {"float32": np.uint32, "bfloat16": np.uint16, "int64": np.uint64}


@contextmanager
def servers(
    folders: Sequence[Path],
    *,
    restore: bool = False,
    every: float | None = None,
    kept: int = 3,
    memory: int = 256 << 20,
) -> Iterator[Box]:
    """A box of servers that write snapshots into these folders, and may begin with what is there."""
    with ExitStack() as stack:
        addresses = [
            stack.enter_context(
                Server(
                    memory=memory,
                    snapshots=SnapshotSettings(folder=folder, every=every, kept=kept),
                    restore=folder if restore else None,
                )
            ).address
            for folder in folders
        ]
        yield stack.enter_context(Box.connect(addresses, transport="tcp", timeout=10))


def arbitrary(dtype: str, count: int) -> "np.ndarray[tuple[int], np.dtype[np.generic]]":
    """Return numbers of arbitrary bits, NaNs of every kind among them, in the storage dtype."""
    bits = np.frombuffer(np.random.default_rng(7).bytes(count * STORAGE[dtype].itemsize), BITS[dtype])
    return bits.view(STORAGE[dtype])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a server writes its snapshots."""
    return tmp_path / "server-0"


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("dtype", BITS)
def test_every_bit_comes_back(tmp_path: Path, dtype: str, count: int) -> None:
    folders = [tmp_path / f"server-{index}" for index in range(count)]
    numbers = arbitrary(dtype, 3 * CHUNK + 5)  # over three servers with more than a stripe each for int64
    with servers(folders) as box:
        box.create("w", (1, numbers.size), dtype, meta={"of": "a model"}).write(numbers)
        box.create("small", 3, dtype).write(numbers[:3])
        paths = [Path(path) for path in box.snapshot()]
    assert [path.parent for path in paths] == folders
    pieces = [load_file(file) for path in paths for file in path.glob("*.safetensors")]
    assert sum(piece["w"].size for piece in pieces if "w" in piece) == numbers.size
    with servers(folders, restore=True) as box:
        assert [info.name for info in box.list()] == ["small", "w"]
        buffer = box.open("w")
        assert (buffer.shape, buffer.dtype, buffer.meta, buffer.version) == (
            (1, numbers.size),
            dtype,
            {"of": "a model"},
            1,
        )
        assert np.array_equal(buffer.read().reshape(-1).view(BITS[dtype]), numbers.view(BITS[dtype]))
        assert np.array_equal(box.open("small").read().view(BITS[dtype]), numbers[:3].view(BITS[dtype]))


def test_counters_values_and_work_come_back_and_leases_do_not(folder: Path) -> None:
    with servers([folder]) as box:
        box.counter("c").add(2**62)
        box.value("v").set({"a": [1, "b", b"\xff"]})
        queue = box.queue("q", 4)
        queue.take()
        queue.take()
        queue.done(0)
        box.lock("l", ttl=1000)
        box.snapshot()
    with servers([folder], restore=True) as box:
        assert box.counter("c").value == 2**62
        assert box.value("v").get() == {"a": [1, "b", b"\xff"]}
        assert box.leases() == []
        queue = box.queue("q", 4)
        assert [queue.take() for _ in range(3)] == [1, 2, 3]  # 1 was held, and nobody has done it
        for item in (1, 2, 3):
            queue.done(item)
        assert queue.take() is None


def test_plain_safetensors_reads_it(folder: Path) -> None:
    with servers([folder]) as box:
        singles, halves = arbitrary("float32", 6), arbitrary("bfloat16", 4)
        box.create("a/w", (2, 3)).write(singles.reshape(2, 3))
        box.create("__metadata__", 4, "bfloat16").write(halves)
        (path,) = box.snapshot()
    files = sorted(Path(path).glob("*.safetensors"))
    (weights,), (bits,) = (load_file(file).items() for file in files)
    assert weights[0] == "a/w"
    assert weights[1].shape == (2, 3)
    assert np.array_equal(weights[1].reshape(-1).view(np.uint32), singles.view(np.uint32))
    assert bits[0] == "__metadata__ (a buffer)"
    assert np.array_equal(bits[1], halves)


@pytest.mark.parametrize("transport", ["local", "tcp"])
def test_adds_go_on_while_a_snapshot_is_written_and_every_chunk_is_of_one_moment(folder: Path, transport: str) -> None:
    chunks = 24
    stop = threading.Event()
    with servers([folder]) as box, Box.connect(box.servers, transport=transport) as other:
        buffer = box.create("w", chunks * CHUNK // 4)
        ones = np.ones(buffer.size, np.float32)
        adding = other.open("w")
        added = 0

        def add() -> None:
            nonlocal added
            while not stop.is_set():
                adding.add(ones)
                added += 1

        adder = threading.Thread(target=add)
        adder.start()
        until(lambda: added > 0, timeout=60)
        seen: list[tuple[int, int, str]] = []
        try:
            for _ in range(5):
                before = added
                (path,) = box.snapshot()
                seen.append((before, added, path))
        finally:
            stop.set()
            adder.join()
    assert any(after > before for before, after, _ in seen), "no add ended while a snapshot was written"
    for before, after, path in seen[-3:]:
        (numbers,) = load_file(next(Path(path).glob("*.safetensors"))).values()
        each = numbers.reshape(chunks, -1)
        assert (each == each[:, :1]).all(), "a chunk was seen half changed"
        assert before <= each.min()
        assert each.max() <= after + 1


def test_what_a_counter_says_is_in_the_numbers(folder: Path) -> None:
    """A counter that goes up after each add is never ahead of what comes back."""
    stop = threading.Event()
    with servers([folder]) as box:
        buffer, counter = box.create("w", 1), box.counter("added")

        def add() -> None:
            while not stop.is_set():
                buffer.add(np.ones(1, np.float32))
                counter.add(1)

        adder = threading.Thread(target=add)
        adder.start()
        try:
            box.snapshot()
        finally:
            stop.set()
            adder.join()
    with servers([folder], restore=True) as box:
        buffer = box.open("w")
        assert box.counter("added").value <= buffer.read()[0]
        assert buffer.version <= buffer.read()[0]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])  # what is last in a manifest is the end of a line


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def alter(path: Path) -> None:
    """Change a manifest that stays JSON."""
    path.write_bytes(path.read_bytes().replace(b'"fresh":0', b'"fresh":1'))


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        ("1.safetensors", flip, r"1\.safetensors was changed: its checksum is \w{64}, not \w{64}"),
        ("1.safetensors", cut, r"1\.safetensors has \d+ bytes, not \d+"),
        ("1.safetensors", Path.unlink, r"1\.safetensors cannot be read: No such file or directory"),
        ("manifest.json", cut, r"manifest\.json"),
        ("manifest.json", flip, r"manifest\.json"),
        ("manifest.json", alter, r"manifest\.json was changed: its checksum is \w{64}, not \w{64}"),
        ("manifest.json", Path.unlink, r"manifest\.json cannot be read: No such file or directory"),
    ],
)
def test_a_snapshot_that_is_not_good_is_skipped_and_it_is_said_why(
    folder: Path, caplog: pytest.LogCaptureFixture, name: str, damage: Callable[[Path], None], reason: str
) -> None:
    with servers([folder]) as box:
        buffer = box.create("w", 1000)
        buffer.write(np.full(1000, 1, np.float32))
        box.queue("q", 1).statistics()
        (good,) = box.snapshot()
        buffer.write(np.full(1000, 2, np.float32))
        (bad,) = box.snapshot()
    damage(Path(bad) / name)
    with servers([folder], restore=True) as box:
        assert (box.open("w").read() == 1).all()
    (record,) = (record for record in caplog.records if record.levelno == logging.WARNING)
    assert f"snapshot {bad} is skipped: " in record.getMessage()
    assert re.search(reason, record.getMessage())
    damage(Path(good) / name)
    with pytest.raises(SnapshotError, match=f"no snapshot in {folder} is good: .*{reason}"):
        Server(restore=folder).start()


def test_a_manifest_cut_anywhere_is_none(folder: Path) -> None:
    with servers([folder]) as box:
        box.create("w", 10)
        (path,) = box.snapshot()
    manifest = Path(path) / "manifest.json"
    whole = manifest.read_bytes()
    for size in range(0, len(whole) - 1, 7):
        manifest.write_bytes(whole[:size])
        with pytest.raises(SnapshotError, match="no snapshot"):
            Server(restore=folder).start()


def test_a_folder_without_a_snapshot_is_told_with_what_there_is(folder: Path) -> None:
    with pytest.raises(SnapshotError, match=f"there is no snapshot in {folder}\nHINT: --restore takes the folder"):
        Server(restore=folder).start()
    with servers([folder]) as box:
        box.snapshot()
    hint = f"HINT: {folder.parent} has those of server-0: modum server --snapshot-name"
    with pytest.raises(SnapshotError, match=hint):
        Server(restore=folder.parent / "other").start()


def test_a_pool_that_is_too_small_is_told(folder: Path) -> None:
    with servers([folder]) as box:
        box.create("w", 4 * CHUNK)
        box.snapshot()
    with pytest.raises(PoolFullError, match="give modum run or modum server a larger --memory"):
        Server(restore=folder, memory=4 * CHUNK).start()


def test_only_so_many_are_kept_and_latest_is_the_newest(folder: Path) -> None:
    with servers([folder], kept=2) as box:
        paths = [box.snapshot()[0] for _ in range(5)]
    assert sorted(each.name for each in folder.iterdir()) == [
        "latest",
        "lock",
        *(Path(each).name for each in paths[-2:]),
    ]
    assert (folder / "latest").resolve() == Path(paths[-1])
    with servers([folder], kept=2, restore=True) as box:
        assert Path(box.snapshot()[0]).name == "snapshot-00000006"


def test_a_server_writes_by_itself(folder: Path) -> None:
    with servers([folder], every=0.05) as box:
        box.create("w", 10)
        while (snapshots := box.statistics().servers[0].snapshots) is None or snapshots.taken < 3:
            pass
        assert snapshots.folder == str(folder)
        assert Path(snapshots.path).parent == folder
        assert 0 < snapshots.seconds <= snapshots.age < 10
        assert snapshots.failure == ""


def test_a_deleted_buffer_is_not_in_it(folder: Path) -> None:
    with servers([folder]) as box:
        box.create("a", 10)
        box.create("b", 10)
        box.delete("a")
        box.snapshot()
    with servers([folder], restore=True) as box:
        assert [info.name for info in box.list()] == ["b"]
        with pytest.raises(BufferNotFoundError):
            box.open("a")


def test_two_servers_do_not_share_a_folder(folder: Path) -> None:
    with servers([folder]):
        with pytest.raises(SnapshotError, match=f"another memory server writes its snapshots into {folder}"):
            Server(snapshots=SnapshotSettings(folder=folder)).start()


def test_another_number_or_order_of_servers_is_refused(tmp_path: Path) -> None:
    folders = [tmp_path / f"server-{index}" for index in range(2)]
    with servers(folders) as box:
        box.create("w", 10 * CHUNK)
        box.counter("c").add(1)
        box.counter("d").add(1)  # each server has something
        box.snapshot()
    with pytest.raises(
        MismatchError, match=r"as number 0 of 2; the client has it as number 0 of 1 (.|\n)*HINT: restore"
    ):
        with servers(folders[:1], restore=True):
            pass
    with pytest.raises(MismatchError, match="as number 1 of 2; the client has it as number 0 of 2"):
        with servers(folders[::-1], restore=True):
            pass


def test_a_server_whose_memory_came_back_and_was_deleted_takes_any_place(tmp_path: Path) -> None:
    folders = [tmp_path / f"server-{index}" for index in range(2)]
    with servers(folders) as box:
        box.create("w", 10)
        box.snapshot()
    with ExitStack() as stack:
        one, two = (stack.enter_context(Server(restore=folder)).address for folder in folders)
        with Box.connect([one, two], transport="tcp") as box:
            box.delete("w")
        for _ in range(2):
            with Box.connect(one, transport="tcp") as box:
                box.open_or_create("other", 10)


def test_who_begins_anew_beside_old_snapshots_is_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with servers([folder]) as box:
        box.snapshot()
    assert folder.stat().st_mode & 0o077 == 0
    with servers([folder], restore=True):
        assert not caplog.records
    with servers([folder]):
        (record,) = caplog.records
    assert record.getMessage().startswith(f"{folder} has 1 snapshot of an earlier run, which new ones will replace")


def test_a_part_that_one_snapshot_lacks_is_not_replaced_with_zeros(tmp_path: Path) -> None:
    """The servers' snapshots are of different moments, and a buffer was made in between."""
    folders = [tmp_path / f"server-{index}" for index in range(2)]
    with servers(folders) as box:
        box.create("before", 10 * CHUNK).write(np.ones(10 * CHUNK, np.float32))
        box.snapshot()
        names = list("abcdef")
        assert {home_of(name, 2) for name in names} == {0, 1}
        for name in names:
            box.create(name, 10 * CHUNK).write(np.ones(10 * CHUNK, np.float32))
        _, newer = box.snapshot()
        for file in Path(newer).iterdir():
            file.unlink()
    with servers(folders, restore=True) as box:
        assert (box.open("before").read() == 1).all()
        lost = [info.name for info in box.list() if info.name != "before"]
        assert lost == [name for name in names if home_of(name, 2) == 0]
        for name in names:
            with pytest.raises(MismatchError if name in lost else BufferNotFoundError):
                box.open(name)
        for name in lost:
            box.delete(name)
        for name in names:  # where a part was left over, it is not taken for one of the new buffer
            assert (box.create(name, 10 * CHUNK).read() == 0).all()


def test_without_a_folder_it_is_said_which_option_gives_one() -> None:
    with Server() as server, Box.connect(server.address, transport="tcp") as box:
        with pytest.raises(SnapshotError, match=r"no folder for snapshots(.|\n)*modum server --snapshot-dir DIR"):
            box.snapshot()
        assert box.statistics().servers[0].snapshots is None


def test_a_snapshot_that_takes_longer_than_it_may_is_told(folder: Path) -> None:
    with servers([folder]) as box:
        box.create("w", 8 * CHUNK)
        with pytest.raises(DeadlineError, match=r"snapshot: not written after 0 s \(memory server"):
            box.snapshot(timeout=0)


@pytest.mark.parametrize(("wrong", "message"), [({"every": 0}, "positive number"), ({"kept": 0}, "at least 1 snap")])
def test_settings_out_of_range_are_refused(folder: Path, wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SnapshotSettings(folder=folder, **wrong)


def test_what_a_dead_server_has_left_is_removed(folder: Path) -> None:
    for name in (".unfinished-00000001", ".unwanted-snapshot-00000001"):
        (folder / name).mkdir(parents=True)
        (folder / name / "1.safetensors").write_bytes(b"x")
    with servers([folder]) as box:
        box.snapshot()
    assert sorted(each.name for each in folder.iterdir()) == ["latest", "lock", "snapshot-00000001"]
