"""What `Averaging` adds to a training step with a large model, over the exchange alone.

A worker of TensorFlow (and one of PyTorch) exchanges at every step, over the local transport, beside its computing
(``overlap=True``). What stays in its step is the subtraction of what has arrived and the snapshot of what goes next.
"""

import json
import subprocess
import sys
from collections.abc import Iterator

from bench.machine import OtherLoad
from bench.processes import ROOT, memory_server
from bench.row import Effort, Row
from bench.timing import QUIET, Turns

FRAMEWORKS = {"tensorflow": "TensorFlow", "torch": "PyTorch"}


def measure(effort: Effort) -> Iterator[Row]:
    """One row for every framework."""
    for framework, name in FRAMEWORKS.items():
        load = OtherLoad()
        with memory_server() as server:
            arguments = (server.address, framework, effort.nbytes, effort.rounds)
            printed = subprocess.run(
                [sys.executable, "-m", "bench.workers.averaging", *map(str, arguments)],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
            ).stdout
        turns = Turns(json.loads(printed.splitlines()[-1]), load.share() <= QUIET)
        yield Row(
            what=f"what averaging adds to a step ({name}) / the local exchange alone, 1 thread each",
            measured=turns.ratio("averaging", "exchange"),
            at_most=1.5,
            detail=f"exchange {turns.milliseconds('exchange')}; in the step, subtraction and snapshot "
            f"{turns.milliseconds('averaging')}",
            samples=turns.samples,
            quiet=turns.quiet,
        )
