"""One tensor in a safetensors file, written and read a chunk at a time.

The package of that name wants a tensor whole in memory: a server would need its memory twice. The format is a
length of 8 bytes, a header of that many bytes of JSON, and the numbers (https://github.com/huggingface/safetensors).
"""

import os
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from modum.box.protocol.limits import CHUNK
from modum.box.snapshots.manifest import new_checksum
from modum.errors import SnapshotError

_CODES: Final = {"float32": "F32", "bfloat16": "U16", "int64": "I64"}
"""Names of the dtypes there. bfloat16 goes as its bits: NumPy, and so `safetensors.numpy`, has no such type."""
_ALIGNMENT: Final = 8
_SYNC_BYTES: Final = 32 << 20
"""How much is on its way to the disk at one time: a server that is to stop waits no longer than for this."""
_RESERVED: Final = "__metadata__"


def write_tensor(
    path: Path, name: str, dtype: str, shape: list[int], nbytes: int, chunks: Iterable[memoryview]
) -> tuple[int, str]:
    """Write a tensor to a new file, and have it on the disk.

    Args:
        path: of the file.
        name: of the tensor.
        dtype: "float32", "bfloat16" or "int64".
        shape: extents.
        nbytes: of all chunks.
        chunks: the numbers; each may be overwritten when the next one is asked for.

    Returns:
        (bytes of the file, its checksum).

    Raises:
        OSError: the disk is full, or read-only, or fails otherwise.
    """
    key = f"{name} (a buffer)" if name == _RESERVED else name  # the format has it for something else
    entry = {"dtype": _CODES[dtype], "shape": shape, "data_offsets": [0, nbytes]}
    header = msgspec.json.encode({_RESERVED: {"format": "np", "modum.dtype": dtype}, key: entry})
    header += b" " * (-len(header) % _ALIGNMENT)
    beginning = memoryview(len(header).to_bytes(8, "little") + header)
    checksum = new_checksum()
    size = 0
    with path.open("xb", buffering=0) as file:
        for piece in chain([beginning], chunks):
            checksum.update(piece)
            if size // _SYNC_BYTES != (size + len(piece)) // _SYNC_BYTES:
                os.fdatasync(file.fileno())
            size += len(piece)
            left = piece
            while left:  # a disk that gets full takes a part
                left = left[file.write(left) :]
        os.fsync(file.fileno())
    return size, checksum.hexdigest()


def read_tensor(path: Path, into: NDArray[np.uint8], file_bytes: int, checksum: str) -> None:
    """Read the numbers of a file that `write_tensor` has written, and check that it is what was written.

    Args:
        path: of the file.
        into: where they go; as many bytes as the tensor has.
        file_bytes: of the file, as its manifest says.
        checksum: likewise.

    Raises:
        SnapshotError: the file is not there, has another size or another checksum; the message says which, without
            the folder. `into` may hold anything then.
    """
    computed = new_checksum()
    try:
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size != file_bytes or size < into.size:
                raise SnapshotError(f"{path.name} has {size} bytes, not {file_bytes}")
            beginning = file.read(size - into.size)
            computed.update(beginning)
            done = 0
            while done < into.size:
                room = into[done : done + CHUNK].data
                count = file.readinto(room)
                if not count:
                    raise SnapshotError(f"{path.name} ends after {len(beginning) + done} bytes of {file_bytes}")
                computed.update(room[:count])
                done += count
    except OSError as error:
        raise SnapshotError(f"{path.name} cannot be read: {error.strerror}") from None
    if computed.hexdigest() != checksum:
        raise SnapshotError(f"{path.name} was changed: its checksum is {computed.hexdigest()}, not {checksum}")
