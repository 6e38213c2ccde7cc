"""A worker whose steps are timed with and without an exchange under them.

    python -m bench.workers.overlap ADDRESS KIND NBYTES SECONDS EXCHANGES

KIND is what a step is made of, all on the main thread and calibrated to SECONDS:

    torch   forward and backward of a model of NBYTES, which leaves the interpreter's lock free nearly all the time
    sleep   a step that needs no processor, such as one that a GPU computes
    python  a loop of pure Python, which never gives the interpreter's lock away by itself

Prints one JSON object: for each step its `Step`, and for each transfer its seconds.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import torch

from bench.workers.model import make_batch, make_model
from modum.box import Box, Buffer
from modum.job import Job
from modum.parameters import Vector
from modum.rules import Elastic, Part
from modum.torch import Averager

LAYERS = 4
INTERVAL = {"torch": 4, "sleep": 4, "python": 60}
"""Steps between exchanges: enough for some without one. In `python` an exchange waits for the interpreter's lock."""


class Watched(Elastic):
    """`Elastic` that notes when its transfers ran."""

    transfers: ClassVar[list[tuple[float, float]]] = []

    def part(self, vector: Vector, buffer: Buffer) -> Part:
        return _WatchedPart(super().part(vector, buffer))


class _WatchedPart(Part):
    def __init__(self, inner: Part) -> None:
        super().__init__(inner.vector, inner.buffer)
        self._inner = inner

    def transfer(self, groups: int, steps: int) -> float:
        start = time.perf_counter()
        rate = self._inner.transfer(groups, steps)
        Watched.transfers.append((start, time.perf_counter()))
        return rate


@dataclass(slots=True)
class Step:
    """One step up to `optimizer.step()`; all in seconds of the main thread.

    Attributes:
        start: on the clock of `transfers`.
        wall: how long it took.
        cpu: how long it computed.
        waited: how long it was ready to compute, but others had the cores.
        boundary: how long `optimizer.step()` took: the snapshot and the subtraction of what arrived.
        covered: how much of `wall` had a transfer under it.
    """

    start: float
    wall: float
    cpu: float
    waited: float
    boundary: float
    covered: float = 0.0


def waited_for_a_core() -> float:
    """Seconds that this thread was ready to run and did not, so far: Linux's run queue."""
    return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9


def calibrated(run: Callable[[int], object], seconds: float) -> int:
    """The argument at which `run` computes for about `seconds`, which must grow with it."""
    amount = 1
    while True:
        start = time.thread_time()
        run(amount)
        took = time.thread_time() - start
        if took > seconds / 2:
            return max(1, round(amount * seconds / took))
        amount *= 2


def compute(kind: str, model: torch.nn.Sequential, seconds: float) -> Callable[[], object]:
    """A step of this kind."""
    if kind == "sleep":
        return lambda: time.sleep(seconds)
    if kind == "python":

        def count(amount: int) -> int:
            total = 0
            for number in range(1000 * amount):
                total += number & 3
            return total

        amount = calibrated(count, seconds)
        return lambda: count(amount)

    def train(size: int) -> None:
        model(make_batch(model, size)).square().mean().backward()

    train(1)
    size = calibrated(train, seconds)
    return lambda: train(size)


def main(address: str, kind: str, nbytes: int, seconds: float, exchanges: int) -> None:
    """Train until enough exchanges were seen."""
    torch.set_num_threads(1)
    model = make_model(nbytes, LAYERS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    step = compute(kind, model, seconds)
    optimizer.zero_grad(set_to_none=kind != "torch")
    interval = INTERVAL[kind]
    steps: list[Step] = []
    with (
        Box.connect(address, transport="tcp") as box,
        Averager(Job(box), model, optimizer, rule=Watched(interval=interval, overlap=True)) as averager,
    ):
        while averager.statistics().exchanges <= exchanges:
            start, cpu, waited = time.perf_counter(), time.thread_time(), waited_for_a_core()
            step()
            end = time.perf_counter()
            measured = Step(start, end - start, time.thread_time() - cpu, waited_for_a_core() - waited, 0.0)
            optimizer.step()
            measured.boundary = time.perf_counter() - end
            steps.append(measured)
        averager.finish()
    for each in steps:
        each.covered = sum(
            max(0.0, min(end, each.start + each.wall) - max(start, each.start)) for start, end in Watched.transfers
        )
    print(
        json.dumps(
            {
                "steps": [asdict(each) for each in steps[2 * interval :]],  # without the first exchange
                "transfers": [end - start for start, end in Watched.transfers[1:]],
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]))
