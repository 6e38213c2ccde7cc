"""Files of trained weights: whatever a file holds, it is read, or the error is Modum's.

HDF5 is left to the HDF5 library.
"""

import os
import tempfile
from pathlib import Path

from modum.caffe.errors import CaffeError
from modum.caffe.weights import read_weights
from tests.fuzz.errors import check_names

FILE = Path(tempfile.gettempdir()) / f"modum-fuzz-{os.getpid()}.caffemodel"


def take(data: bytes) -> None:
    """Read weights from a file of these bytes."""
    if data.startswith(b"\x89HDF"):
        return
    FILE.write_bytes(data)
    try:
        for arrays in read_weights(FILE).values():
            for array in arrays:
                assert array.size * array.itemsize <= 2 * len(data)
    except CaffeError as error:
        check_names(error, FILE.name)
    finally:
        FILE.unlink()
