"""The throughput of asynchronous stages that take a fixed time, against that of one stage.

The stages sleep: they need no processor, as those that a GPU computes, so that only what the pipeline itself costs is
left. What they hand on has the size of real activations.
"""

import json
import subprocess
import sys
from collections.abc import Iterator

from bench.machine import OtherLoad
from bench.processes import ROOT, memory_server
from bench.row import Effort, Row
from bench.timing import QUIET

STAGES = 4
SECONDS = 0.04
"""That a stage takes for one forward and backward pass."""
NBYTES = 1_000_000
"""Of the activations, and of their gradients."""
BATCHES = 20
"""For every round of an `Effort`."""


def measure(effort: Effort) -> Iterator[Row]:
    """One row for every transport, and one with a batch ahead, which hides the time on the wire."""
    for transport, ahead in (("local", 0), ("tcp", 0), ("tcp", 1)):
        load = OtherLoad()
        with memory_server() as server:
            arguments = (server.address, transport, STAGES, ahead, SECONDS, NBYTES, BATCHES * effort.rounds)
            workers = [
                subprocess.Popen(
                    [sys.executable, "-m", "bench.workers.pipeline", str(rank), *map(str, arguments)],
                    stdout=subprocess.PIPE,
                    text=True,
                    cwd=ROOT,
                )
                for rank in range(STAGES)
            ]
            try:
                printed = [worker.communicate()[0] for worker in workers]
            finally:
                for worker in workers:
                    worker.kill()
                    worker.wait()
        yield row_of(transport, ahead, [json.loads(each) for each in printed], quiet=load.share() <= QUIET)


def row_of(transport: str, ahead: int, results: list[dict[str, float]], *, quiet: bool) -> Row:
    """The row that follows from what `bench.workers.pipeline` printed, by stage.

    Full is a pipeline whose slowest stage never waits: so long as one stage alone takes for all batches, with what its
    sleeps really took.
    """
    slowest = max(results, key=lambda result: result["computed"])
    throughput = slowest["computed"] / slowest["seconds"]
    waited = ", ".join(f"{1e3 * result['waited'] / result['batches']:.1f}" for result in results)
    return Row(
        what=f"throughput of {STAGES} asynchronous stages ({transport}{', a batch ahead' * ahead}), of one stage's",
        measured=throughput,
        at_least=0.9,
        detail=f"{slowest['batches'] / slowest['seconds']:.1f} batches/s, one stage alone "
        f"{slowest['batches'] / slowest['computed']:.1f}; {NBYTES / 1e6:g} MB cross each cut each way; "
        f"waited per batch, by stage: {waited} ms",
        samples={"pipeline": [result["seconds"] for result in results]},
        quiet=quiet,
    )
