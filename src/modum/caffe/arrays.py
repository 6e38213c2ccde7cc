"""Arrays in Caffe's files: BlobProto messages, alone or in others, and HDF5; and atomic writing of files."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TypeVar

import h5py
import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from modum.caffe.errors import CaffeError, MissingFileError
from modum.caffe.proto import BlobProto, Message

__all__ = [
    "from_blob",
    "is_hdf5",
    "open_hdf5",
    "parse_file",
    "read_mean",
    "replace_file",
    "to_blob",
    "unreadable",
    "write_mean",
    "write_message",
]

MAX_MESSAGE = 2**31 - 1  # bytes; protobuf's limit, and Caffe's

_HDF5 = b"\x89HDF\r\n\x1a\n"
_MessageT = TypeVar("_MessageT", bound=Message)


def from_blob(blob: BlobProto, path: str | PathLike[str]) -> NDArray[np.floating]:
    """Return the values of a blob.

    A blob with any of the old fields num, channels, height and width has these four dimensions.

    Args:
        blob: the blob.
        path: path of its file, for errors.

    Returns:
        float32 or float64, in the blob's shape.

    Raises:
        CaffeError: the number of values does not fit the shape.
    """
    name, kind = ("double_data", "<f8") if len(blob.double_data) else ("data", "<f4")
    packed = BlobProto()
    packed.CopyFrom(blob)
    packed.DiscardUnknownFields()
    for field, _ in packed.ListFields():
        if field.name != name:
            packed.ClearField(field.name)
    # Field, length, bytes: the numbers as in the file, without a Python float for each.
    count = len(getattr(blob, name))
    content = memoryview(packed.SerializeToString())
    values = np.frombuffer(content[len(content) - count * np.dtype(kind).itemsize :], kind).astype(kind[1:])
    old = ("num", "channels", "height", "width")
    shape: Sequence[int] = list(blob.shape.dim)
    if any(blob.HasField(name) for name in old):
        shape = [getattr(blob, name) for name in old]
    if min(shape, default=0) < 0 or values.size != math.prod(shape):
        raise CaffeError(f"{path}: has a blob of shape {shape} with {values.size} values")
    return values.reshape(shape)


def to_blob(array: NDArray[np.floating], blob: BlobProto, diff: NDArray[np.floating] | None = None) -> None:
    """Put `array`, and its gradient `diff` if given, into the empty `blob`: float64 unchanged, others as float32."""
    double = array.dtype == np.float64
    kind = np.dtype("<f8" if double else "<f4")
    for number, values in zip((8, 9) if double else (5, 6), (array, diff), strict=True):
        if values is not None:
            content = np.ascontiguousarray(values, kind).tobytes()
            # Field, length, bytes: as protobuf would write them, again without Python floats.
            blob.MergeFromString(_varint(number << 3 | 2) + _varint(len(content)) + content)
    blob.shape.dim.extend(array.shape)
    blob.shape.SetInParent()


def read_mean(path: str | PathLike[str]) -> NDArray[np.float32]:
    """Read a mean image.

    Other arrays, such as InfogainLoss's matrix, are kept in such files too; they keep the file's shape, without a first
    dimension of 1 if there are four.

    Args:
        path: path of the file (`.binaryproto`).

    Returns:
        float32, [channels, height, width].

    Raises:
        CaffeError: the file cannot be read.
    """
    mean = from_blob(parse_file(BlobProto(), path), path).astype(np.float32, copy=False)
    return mean[0] if mean.ndim == 4 and mean.shape[0] == 1 else mean


def write_mean(path: str | PathLike[str], mean: NDArray[np.floating]) -> None:
    """Write the image `mean`, channels x height x width, to the file `path`, as compute_image_mean does."""
    channels, height, width = mean.shape
    blob = BlobProto()
    to_blob(mean.astype(np.float32, copy=False), blob)
    blob.ClearField("shape")
    blob.num, blob.channels, blob.height, blob.width = 1, channels, height, width
    write_message(blob, path)


def parse_file(message: _MessageT, path: str | PathLike[str]) -> _MessageT:
    """Read a message from a binary file.

    Args:
        message: an empty message, which is filled.
        path: path of the file.

    Returns:
        `message`.

    Raises:
        CaffeError: the file cannot be read, or is not such a message.
    """
    try:
        message.ParseFromString(Path(path).read_bytes())
    except OSError as error:
        raise unreadable(path, error) from None
    except DecodeError:
        raise CaffeError(f"{path}: is not a {message.DESCRIPTOR.name}, or is damaged") from None
    return message


def write_message(message: Message, path: str | PathLike[str]) -> None:
    """Write `message` to the binary file `path`, which appears only once it is complete."""
    if message.ByteSize() > MAX_MESSAGE:
        raise CaffeError(
            f"{path}: {message.ByteSize()} bytes are too many for a binary file; a name ending in .h5 has no limit"
        )
    with replace_file(path) as temporary:
        temporary.write_bytes(message.SerializeToString())


def is_hdf5(path: str | PathLike[str]) -> bool:
    """Return whether a file begins like an HDF5 file.

    Args:
        path: path of the file.

    Returns:
        Whether it does.

    Raises:
        CaffeError: the file cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return file.read(len(_HDF5)) == _HDF5
    except OSError as error:
        raise unreadable(path, error) from None


@contextmanager
def open_hdf5(path: str | PathLike[str]) -> Iterator[h5py.File]:
    """Open the HDF5 file `path` for reading; turn errors inside the `with` block into `CaffeError`."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (KeyError, OSError, ValueError) as error:
        raise CaffeError(f"{path}: cannot be read: {error}") from error


@contextmanager
def replace_file(path: str | PathLike[str]) -> Iterator[Path]:
    """Yield a path to write to; it becomes `path` when the `with` block ends, and is removed if that raises."""
    temporary = Path(f"{path}.part")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def unreadable(path: str | PathLike[str], error: OSError) -> CaffeError:
    """Return the error for a file `path` that cannot be read, with the system's reason."""
    kind = MissingFileError if isinstance(error, FileNotFoundError) else CaffeError
    return kind(f"{path}: cannot be read: {error.strerror}")


def _varint(number: int) -> bytes:
    """Return the non-negative `number` as protobuf writes it: seven bits per byte, the lowest first."""
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
