"""One stage that takes a fixed time and no processor.

    python -m bench.workers.pipeline RANK ADDRESS TRANSPORT STAGES AHEAD SECONDS NBYTES BATCHES

Prints one JSON object: the batches that were counted, and the seconds that they took from the first update to the last,
of which this stage computed (slept) and waited. The batches that fill the pipeline are not counted.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modum.box import Box
from modum.job import Job
from modum.pipeline import Pipeline, Stage, Weight


class SleepingStage(Stage):
    """Sleeps for a third of its time forward and two thirds backward, as dense layers share it out."""

    results = ("loss",)
    framework = "none"

    def __init__(self, index: int, stages: int, seconds: float, nbytes: int) -> None:
        self.index = index
        self.stages = stages
        self.layers = ("sleep",)
        self._seconds = seconds
        self._activations = np.zeros(nbytes // 4, np.float32)

    def forward(self, number: int, inputs: Any, labels: Any = None, weight: float = 1.0) -> Sequence[NDArray[Any]]:
        time.sleep(self._seconds / 3)
        return [np.zeros(1) if self.last else self._activations]

    def backward(self, number: int, gradients: Sequence[NDArray[Any]]) -> Sequence[NDArray[Any]]:
        time.sleep(self._seconds * 2 / 3)
        return [] if self.first else [self._activations]

    def update(self) -> None:
        """There is nothing to update."""

    def evaluate(self, inputs: Any, labels: Any = None) -> Sequence[NDArray[Any]]:
        return self.forward(0, inputs, labels)

    @property
    def versions(self) -> int:
        return 1

    def weights(self) -> list[Weight]:
        return []

    def assign(self, weights: Mapping[str, NDArray[Any]]) -> None:
        """There is nothing to assign."""

    def assemble(self, weights: Mapping[str, NDArray[Any]]) -> None:
        """There is nothing to assemble."""


def main(
    rank: int, address: str, transport: str, stages: int, ahead: int, seconds: float, nbytes: int, batches: int
) -> None:
    """Train, and print what it took."""
    with Box.connect(address, transport=transport) as box:
        job = Job(box, rank=rank, world_size=stages, local_rank=rank)
        with Pipeline(job, SleepingStage(rank, stages, seconds, nbytes), ahead=ahead) as pipeline:
            marks = []
            warm_up = 2 * stages
            indices = [np.zeros(1, np.int64)] * (batches + warm_up + stages)
            for _ in pipeline.train(indices, inputs=lambda batch: [], labels=lambda batch: []):
                now = pipeline.statistics()
                marks.append((time.perf_counter(), now.compute_seconds, now.waited_seconds))
    counted = marks[warm_up:-stages]  # the last batches leave the pipeline emptier and emptier
    took, computed, waited = (end - start for start, end in zip(counted[0], counted[-1], strict=True))
    print(json.dumps({"batches": len(counted) - 1, "seconds": took, "computed": computed, "waited": waited}))


if __name__ == "__main__":
    _, first, where, way, *numbers = sys.argv
    main(int(first), where, way, int(numbers[0]), int(numbers[1]), float(numbers[2]), int(numbers[3]), int(numbers[4]))
