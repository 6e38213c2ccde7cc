"""Databases: the same records in the same order from both kinds, and plain words about what cannot be read."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import lmdb
import pytest

from modum.caffe.data.store import Cursor, open_store
from modum.data import DataError
from tests.caffe.data.making import plyvel, write_leveldb, write_lmdb

RECORDS = [(b"%03d" % number, b"value %d" % number * 50) for number in range(200)]


@pytest.fixture(params=["LMDB", "LEVELDB"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def database(backend: str, tmp_path: Path) -> Path:
    write = write_lmdb if backend == "LMDB" else write_leveldb
    return write(tmp_path / "database", reversed(RECORDS))


def read(cursor: Cursor, count: int) -> list[tuple[bytes, bytes]]:
    records = []
    for _ in range(count):
        records.append((cursor.key, bytes(cursor.value)))
        cursor.next()
    return records


def test_records_come_in_the_order_of_their_keys_and_again_after_the_last(database: Path, backend: str) -> None:
    cursor = open_store(database, backend)
    assert len(cursor) == len(RECORDS)
    assert read(cursor, 2 * len(RECORDS)) == RECORDS * 2
    cursor.next()
    cursor.rewind()
    assert cursor.key == RECORDS[0][0]
    cursor.close()
    cursor.close()


def test_several_cursors_read_one_database_each_at_its_own_place(database: Path, backend: str) -> None:
    first, second = open_store(database, backend), open_store(database, backend)
    read(first, 7)
    assert second.key == RECORDS[0][0]
    first.close()
    assert read(second, len(RECORDS)) == RECORDS
    second.close()


def test_reading_writes_nothing_beside_the_records(database: Path, backend: str) -> None:
    def state() -> dict[str, tuple[int, int]]:
        return {file.name: (file.stat().st_mtime_ns, file.stat().st_size) for file in database.iterdir()}

    if backend == "LMDB":
        (database / "lock.mdb").unlink()
    before = state()
    cursor = open_store(database, backend)
    read(cursor, 3)
    cursor.close()
    assert state() == before


def test_the_file_of_an_lmdb_alone_will_do(tmp_path: Path) -> None:
    file = write_lmdb(tmp_path / "database", RECORDS) / "data.mdb"
    cursor = open_store(file, "LMDB")
    assert read(cursor, 3) == RECORDS[:3]
    cursor.close()


def test_a_missing_database_is_told_with_what_makes_one(backend: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"there is no {backend} at .*/nowhere; HINT: .*modum caffe convert --help"):
        open_store(tmp_path / "nowhere", backend)
    with pytest.raises(DataError, match=rf"there is no {backend} at nowhere in /"):
        open_store("nowhere", backend)


def test_a_database_of_the_other_kind_is_told_with_the_setting(database: Path, backend: str) -> None:
    other = "LMDB" if backend == "LEVELDB" else "LEVELDB"
    with pytest.raises(DataError, match=f"is no {other}: say backend: {backend}"):
        open_store(database, other)


def test_a_folder_of_something_else_is_refused(backend: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no file (data.mdb|CURRENT)"):
        open_store(tmp_path, backend)


def test_an_empty_database_is_refused(backend: str, tmp_path: Path) -> None:
    write = write_lmdb if backend == "LMDB" else write_leveldb
    with pytest.raises(DataError, match="is empty"):
        open_store(write(tmp_path / "database", []), backend)


def test_an_lmdb_that_is_cut_short_is_refused_before_it_is_read(tmp_path: Path) -> None:
    database = write_lmdb(tmp_path / "database", RECORDS)
    file = database / "data.mdb"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=rf"cut short: {len(content) // 2} bytes, while \d+ pages of 4096 bytes"):
        open_store(database, "LMDB")


def test_a_file_of_noise_is_no_lmdb(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(b"noise" * 5000)
    with pytest.raises(DataError, match=r"cannot be read as an LMDB: .*not an LMDB file"):
        open_store(tmp_path, "LMDB")


def test_a_damaged_leveldb_is_refused(tmp_path: Path) -> None:
    database = write_leveldb(tmp_path / "database", RECORDS)
    next(database.glob("MANIFEST*")).write_bytes(b"noise" * 100)
    with pytest.raises(DataError, match="cannot be read as a LevelDB"):
        open_store(database, "LEVELDB")


def test_a_leveldb_in_use_by_its_writer_can_be_read(tmp_path: Path) -> None:
    write_leveldb(tmp_path / "database", RECORDS)
    writer = plyvel.DB(str(tmp_path / "database"))
    cursor = open_store(tmp_path / "database", "LEVELDB")
    assert read(cursor, len(RECORDS)) == RECORDS
    cursor.close()
    writer.close()


def test_what_a_killed_reader_of_a_leveldb_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = write_leveldb(tmp_path / "database", RECORDS)
    views = tmp_path / "views"
    views.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(views))
    here = open_store(database, "LEVELDB")
    opened = f"from modum.caffe.data.store import open_store; cursor = open_store({str(database)!r}, 'LEVELDB')"
    command = [sys.executable, "-c", f"{opened}; print(flush=True); input()"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "TMPDIR": str(views)}
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline()
        left = set(views.iterdir())
        reader.kill()
    again = open_store(database, "LEVELDB")
    assert len(left) == 2
    assert len(left & set(views.iterdir())) == 1
    assert read(here, len(RECORDS)) == RECORDS
    again.close()
    here.close()
    assert not list(views.iterdir())


def test_an_lmdb_can_be_opened_again_after_its_last_cursor_is_closed(tmp_path: Path) -> None:
    database = write_lmdb(tmp_path / "database", RECORDS)
    open_store(database, "LMDB").close()
    lmdb.open(str(database)).close()  # LMDB refuses a second opening in one process
    cursor = open_store(database, "LMDB")
    assert cursor.key == b"000"
    cursor.close()
