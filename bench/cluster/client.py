"""A client that does one operation after the other on a buffer that all clients share.

python -m bench.cluster.client
"""

import time
from collections.abc import Callable

import numpy as np

import modum
from bench.cluster.log import Log
from bench.cluster.place import read_case
from modum.errors import BufferExistsError


def main() -> None:
    """Go on until the cluster is taken away."""
    case = read_case()
    with modum.connect(transport="tcp") as job:
        try:
            buffer = job.box.create("pool", case.nbytes // 4)
        except BufferExistsError:
            buffer = job.box.open("pool")
        x = np.random.default_rng(job.rank).standard_normal(case.nbytes // 4, np.float32)
        operations: dict[str, Callable[[], object]] = {
            "read": lambda: buffer.read(x),
            "add": lambda: buffer.add(x, 1.0),
            "exchange": lambda: buffer.exchange(x, 0.1, compression=case.compression),
        }
        log = Log(job.rank)
        while True:
            start = time.monotonic()
            operations[case.operation]()
            log.step(time.monotonic() - start)


if __name__ == "__main__":
    main()
