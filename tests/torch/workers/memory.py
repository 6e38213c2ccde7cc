"""A worker with one large parameter. Prints the most memory it had beyond weights and gradients, in models.

Memory that the worker shares with the memory server is the server's and does not count.
"""

import threading
from pathlib import Path

import torch
from torch import nn

import modum
from modum.rules import Elastic, Hybrid
from modum.torch import Averager

ELEMENTS = 1 << 25


def private_bytes() -> int:
    """Memory of this process alone: not files, not memory mapped from a server."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


class Peak:
    """Watches memory on a thread of its own."""

    def __init__(self) -> None:
        self.bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(0.001):
            self.bytes = max(self.bytes, private_bytes())

    def stop(self) -> int:
        self._stop.set()
        self._thread.join()
        return self.bytes


with modum.connect(transport="tcp") as job:
    # what libraries take for themselves when they are first used is not the point
    small = nn.Linear(1, 1)
    with Averager(job, small, torch.optim.SGD(small.parameters()), name="small") as averager:
        averager.finish(30)

    model = nn.Linear(ELEMENTS, 1, bias=False)
    model.weight.grad = torch.ones_like(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = private_bytes()
    peak = Peak()
    with Averager(job, model, optimizer, Hybrid(between=Elastic(interval=1))) as averager:
        for _ in range(4):
            optimizer.step()
        with averager.shared_weights():
            pass
        optimizer.step()
        averager.finish(30)
    print((peak.stop() - before) / (4 * ELEMENTS))
