"""What a checkpoint is on the disk: files of the workers, and a record that says which snapshots go with them.

    DIR/server-0/snapshot-00000041/   one for each memory server, written by it
    DIR/workers/snapshot-00000007/    record.json, worker-0.1.state, worker-0.2.state, worker-1.1.state, ...

It counts once the record is in its place.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import msgspec

from modum.box.snapshots.folder import remove, snapshots_in
from modum.box.snapshots.manifest import (
    MANIFEST,
    check_file,
    check_snapshot,
    encode_signed,
    new_checksum,
    read_signed,
)
from modum.errors import SnapshotError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

__all__ = [
    "RECORD",
    "WORKERS",
    "Record",
    "ServerSnapshot",
    "StateFile",
    "discard_others",
    "newest_good",
    "read_state",
    "server_snapshot",
    "write_file",
]

_FORMAT: Final = 1
RECORD: Final = "record.json"
WORKERS: Final = "workers"
"""The folder of the workers' states, beside those of the servers."""


class StateFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a worker's state.

    Attributes:
        rank: of the worker.
        name: of the part.
        file: beside the record.
        file_bytes: its size.
        checksum: BLAKE2b, of 32 bytes, in hexadecimal.
    """

    rank: int
    name: str
    file: str
    file_bytes: int
    checksum: str


class ServerSnapshot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A memory server's snapshot that belongs to a checkpoint.

    Attributes:
        folder: the server's, in DIR.
        snapshot: its name there.
        checksum: of its manifest.
    """

    folder: str
    snapshot: str
    checksum: str


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What belongs to a checkpoint.

    Attributes:
        format: version of the format.
        taken: when, in seconds since 1970.
        world_size: number of workers.
        group_size: workers in a group.
        command: the script and its arguments; empty: an earlier version has not noted it.
        servers: the snapshots of all servers, in the order of the box.
        states: the parts of all workers' states; of a worker that had died there are none.
    """

    format: int = _FORMAT
    taken: float
    world_size: int
    group_size: int
    command: list[str] = []
    servers: list[ServerSnapshot]
    states: list[StateFile]


def write_file(path: Path, data: bytes) -> str:
    """Write a new file, have it on the disk, and return its checksum.

    Args:
        path: of the file.
        data: its contents.

    Returns:
        The checksum.

    Raises:
        OSError: the disk does not let it.
    """
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    checksum = new_checksum()
    checksum.update(data)
    return checksum.hexdigest()


def server_snapshot(path: Path) -> ServerSnapshot:
    """Return what a record says of a server's snapshot that has just been written."""
    checksum = new_checksum()
    checksum.update((path / MANIFEST).read_bytes())
    return ServerSnapshot(path.parent.name, path.name, checksum.hexdigest())


def encode_record(record: Record) -> bytes:
    """Return the contents of a record's file."""
    return encode_signed(record)


def newest_good(folder: Path, skipped: Callable[[str], None]) -> tuple[Path, Record] | None:
    """Find the newest checkpoint of which every file is what was written.

    Args:
        folder: DIR.
        skipped: told of each that is not good, and why.

    Returns:
        (the folder of the workers' states, the record), or None if there is no checkpoint at all.

    Raises:
        SnapshotError: there are some, and none is good; or there are snapshots of servers alone.
    """
    checkpoints = snapshots_in(folder / WORKERS)
    reasons = []
    for path in reversed(checkpoints):
        try:
            return path, _checked(folder, path)
        except SnapshotError as error:
            skipped(f"checkpoint {path} is skipped: {error}")
            reasons.append(f"  {path.name}: {error}\n")
    if reasons:
        raise SnapshotError(
            f"no checkpoint in {folder} is good\n{''.join(reasons)}"
            "HINT: to begin anew, name another folder, or remove this one"
        )
    if not (folder / WORKERS).exists() and any(snapshots_in(each) for each in folder.glob("server-*")):
        raise SnapshotError(
            f"{folder} has snapshots of memory servers, and no worker's state\n"
            f"HINT: --snapshot-dir {folder} --restore {folder} begins with the shared weights alone; or name another"
            " folder"
        )
    return None


def read_state(checkpoint: Path, rank: int) -> dict[str, bytes]:
    """Return the parts of a worker's state, by name; none if it had died.

    Args:
        checkpoint: the folder of the workers' states.
        rank: of the worker.

    Returns:
        The contents of its files.

    Raises:
        SnapshotError: a file is not what was written.
    """
    parts = {}
    for each in read_signed(checkpoint / RECORD, Record).states:
        if each.rank == rank:
            path = checkpoint / each.file
            check_file(path, each.file_bytes, each.checksum)
            parts[each.name] = path.read_bytes()
    return parts


def discard_others(folder: Path, servers: Sequence[ServerSnapshot]) -> None:
    """Remove the servers' snapshots that are newer than those of a checkpoint: they belong to none that is good.

    Args:
        folder: DIR.
        servers: of the checkpoint; none: there is none.
    """
    kept = {each.folder: each.snapshot for each in servers}
    for server in folder.glob("server-*"):
        for snapshot in reversed(snapshots_in(server)):
            if snapshot.name == kept.get(server.name):
                break
            remove(snapshot)


def _checked(folder: Path, path: Path) -> Record:
    """Return the record of a checkpoint, once all of its files were checked."""
    record = read_signed(path / RECORD, Record)
    if record.format != _FORMAT:
        raise SnapshotError(f"{RECORD} is of format {record.format}, this version reads format {_FORMAT}")
    for state in record.states:
        check_file(path / state.file, state.file_bytes, state.checksum)
    for server in record.servers:
        snapshot = folder / server.folder / server.snapshot
        try:
            check_snapshot(snapshot)
            if server_snapshot(snapshot).checksum != server.checksum:
                raise SnapshotError(f"{MANIFEST} is of another snapshot")
        except SnapshotError as error:
            raise SnapshotError(f"{server.folder}/{server.snapshot}: {error}") from None
    return record
