"""Keeps copies of a box's shared weights.

python -m bench.cluster.observer ADDRESS,...
"""

import os
import sys
import time
from pathlib import Path

from bench.cluster.compute import SNAPSHOT_SECONDS, make, save
from bench.cluster.place import read_case
from modum.box import Box
from modum.cluster import credentials
from modum.errors import BufferNotFoundError
from modum.torch.flat import FlatVector, shared_tensors
from modum.torch.group import TorchGroup


def main(address: str) -> None:
    """Look until the cluster is taken away."""
    case = read_case()
    model = make(case, 0)
    vector = FlatVector(shared_tensors(model), TorchGroup())
    folder = Path(os.environ["BENCH_FOLDER"])
    with Box.connect(address, token=credentials.token(), transport="tcp") as box:
        while True:
            time.sleep(SNAPSHOT_SECONDS)
            try:
                buffer = box.open("model/float32")
            except BufferNotFoundError:
                continue
            vector.read(buffer)
            buffer.close()
            save(folder, model)


if __name__ == "__main__":
    main(sys.argv[1])
