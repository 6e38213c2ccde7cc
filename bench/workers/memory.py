"""A worker whose memory is measured: before `modum.torch.Averager` and with it.

    python -m bench.workers.memory ADDRESS NBYTES

Prints the bytes of the model's weights, what the process held after ordinary steps, the most that it held from the
making of the averager to its end, and what it held at its end.
"""

import ctypes
import sys
from pathlib import Path

import torch

from bench.workers.model import make_batch, make_model, train_step, weight_bytes
from modum.box import Box
from modum.job import Job
from modum.rules import Elastic
from modum.torch import Averager

LAYERS = 16
EXCHANGES = 3


def resident(kind: str = "VmRSS") -> int:
    """Bytes of this process in memory: now, or the most so far (`VmHWM`)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(kind):
            return int(line.split()[1]) * 1024
    raise KeyError(kind)


def main(address: str, nbytes: int) -> None:
    """Train without the averager, then with it."""
    torch.set_num_threads(1)
    model = make_model(nbytes, LAYERS)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    batch = make_batch(model, 1)
    with Box.connect(address, transport="tcp") as box:
        for _ in range(EXCHANGES):
            train_step(model, optimizer, batch)
        ctypes.CDLL(None).malloc_trim(0)
        before = resident()
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
        with Averager(Job(box), model, optimizer, rule=Elastic(interval=1, overlap=True)) as averager:
            for _ in range(EXCHANGES):
                train_step(model, optimizer, batch)
            averager.finish()
            after = resident()
        print(weight_bytes(model), before, resident("VmHWM"), after, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
