"""The manifest of a snapshot: everything but the numbers, as JSON that carries its own checksum."""

import hashlib
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from modum.errors import SnapshotError

FORMAT: Final = 1
"""Version of what a snapshot consists of."""
MANIFEST: Final = "manifest.json"

Signed = TypeVar("Signed", bound=msgspec.Struct)


class BufferPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One buffer's part on the server, whose numbers are in a file of their own.

    Attributes:
        name: of the buffer.
        file: name of the safetensors file beside the manifest.
        file_bytes: its size.
        data_bytes: of these, the numbers, at the end of the file.
        checksum: BLAKE2b of the whole file, of 32 bytes, in hexadecimal.
        segment: number of the segment on this server.
        incarnation: number of the buffer's segment on its home server.
        home: whether this server is the buffer's home.
        shape: of the whole buffer.
        dtype: of its elements.
        nbytes: of the whole buffer.
        stripe: bytes of its stripes; 0 if nobody has told the server its place in a box.
        version: mark of the buffer; what it counts is in the numbers.
        meta: of the buffer, msgpack.
    """

    name: str
    file: str
    file_bytes: int
    data_bytes: int
    checksum: str
    segment: int
    incarnation: int
    home: bool
    shape: list[int]
    dtype: str
    nbytes: int
    stripe: int
    version: int
    meta: bytes


class QueueState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A work queue, without who holds its items.

    Attributes:
        size: number of items.
        fresh: the next item that was never taken.
        returned: items that are handed out before fresh ones: those that were taken and not done.
        done: how many are done.
    """

    size: int
    fresh: int
    returned: list[int]
    done: int


class Notes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a server keeps besides numbers and outlives its clients: no leases.

    Attributes:
        counters: by name.
        queues: work queues, by name.
        values: small values by name, msgpack.
    """

    counters: dict[str, int]
    queues: dict[str, QueueState]
    values: dict[str, bytes]


class Place(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A server's place in its box.

    Attributes:
        index: number of the server, from 0.
        servers: how many there are.
    """

    index: int
    servers: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a snapshot says of itself.

    Attributes:
        format: version of the format.
        server: identifier of the run of the server that wrote it.
        address: where that server listened.
        place: of the server in its box; None if no client has joined one.
        taken: when it was begun, in seconds since 1970.
        last_segment: the highest number that a segment of the server has had.
        buffers: parts of buffers.
        notes: everything else.
    """

    format: int
    server: str
    address: str
    place: Place | None
    taken: float
    last_segment: int
    buffers: list[BufferPart]
    notes: Notes


class _Signed(msgspec.Struct, frozen=True):
    checksum: str
    contents: msgspec.Raw


def new_checksum() -> "hashlib.blake2b":
    """Return the hash of which snapshots have the hexadecimal digest."""
    return hashlib.blake2b(digest_size=32)


def encode_signed(contents: msgspec.Struct) -> bytes:
    """Return a structure as JSON: `{"checksum": of the bytes of contents, "contents": {...}}`."""
    encoded = msgspec.json.encode(contents)
    checksum = new_checksum()
    checksum.update(encoded)
    return msgspec.json.encode(_Signed(checksum.hexdigest(), msgspec.Raw(encoded))) + b"\n"


def read_signed(path: Path, kind: type[Signed]) -> Signed:
    """Read what `encode_signed` has returned.

    Args:
        path: of the file.
        kind: of the structure.

    Returns:
        The structure.

    Raises:
        SnapshotError: it is not there, not whole, changed, or another structure; the message says which, without the
            folder.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SnapshotError(f"{path.name} cannot be read: {error.strerror}") from None
    try:
        signed = msgspec.json.decode(data, type=_Signed)
    except msgspec.DecodeError as error:
        raise SnapshotError(f"{path.name} is truncated or no manifest: {error}") from None
    checksum = new_checksum()
    checksum.update(bytes(signed.contents))
    if checksum.hexdigest() != signed.checksum:
        raise SnapshotError(f"{path.name} was changed: its checksum is {checksum.hexdigest()}, not {signed.checksum}")
    try:
        return msgspec.json.decode(signed.contents, type=kind)
    except msgspec.DecodeError as error:
        raise SnapshotError(f"{path.name} is of another version of Modum: {error}") from None


def read_manifest(snapshot: Path) -> Manifest:
    """Read the manifest in the folder of a server's snapshot.

    Args:
        snapshot: the folder.

    Returns:
        The manifest.

    Raises:
        SnapshotError: it is not there, not whole, changed, or of another format; the message says which, without
            the folder.
    """
    manifest = read_signed(snapshot / MANIFEST, Manifest)
    if manifest.format != FORMAT:
        raise SnapshotError(f"{MANIFEST} is of format {manifest.format}, this version reads format {FORMAT}")
    return manifest


def check_file(path: Path, file_bytes: int, checksum: str) -> None:
    """Check that a file is what was written.

    Args:
        path: of the file.
        file_bytes: its size, as its manifest says.
        checksum: likewise.

    Raises:
        SnapshotError: it is not there, or has another size or checksum; the message says which, without the folder.
    """
    try:
        with path.open("rb") as file:
            if (size := path.stat().st_size) != file_bytes:
                raise SnapshotError(f"{path.name} has {size} bytes, not {file_bytes}")
            computed = hashlib.file_digest(file, new_checksum).hexdigest()
    except OSError as error:
        raise SnapshotError(f"{path.name} cannot be read: {error.strerror}") from None
    if computed != checksum:
        raise SnapshotError(f"{path.name} was changed: its checksum is {computed}, not {checksum}")


def check_snapshot(snapshot: Path) -> Manifest:
    """Check all files of a server's snapshot.

    Args:
        snapshot: the folder.

    Returns:
        Its manifest.

    Raises:
        SnapshotError: one is not what was written.
    """
    manifest = read_manifest(snapshot)
    for part in manifest.buffers:
        check_file(snapshot / Path(part.file).name, part.file_bytes, part.checksum)
    return manifest
