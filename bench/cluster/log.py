"""A worker's steps, in a file that the cluster reads."""

import json
import os
import time
from pathlib import Path


class Log:
    """Notes the steps of a worker."""

    def __init__(self, rank: int) -> None:
        self._file = (Path(os.environ["BENCH_FOLDER"]) / f"steps.{rank}").open("w", buffering=1)
        self._index = 0

    def step(self, compute: float, **details: float) -> None:
        """A step has ended, whose forward and backward pass took ``compute`` seconds."""
        self._index += 1
        self._file.write(json.dumps([time.monotonic(), compute, {"index": self._index, **details}]) + "\n")
