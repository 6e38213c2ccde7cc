"""Local `exchange` against the same semantics over MPI one-sided get and accumulate."""

import shutil
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.exchange import MOVING_RATE
from bench.processes import PeerError, memory_server, peer
from bench.row import Effort, Row
from bench.timing import WARM_UP, take_turns, timed
from modum.box import Box


def measure(effort: Effort) -> Iterator[Row]:
    """The whole of both: lock, transfers and arithmetic."""
    x = np.ones(effort.nbytes // 4, np.float32)
    launcher = (_mpiexec(), "-n", "2")
    with memory_server() as server, peer("mpi", effort.nbytes, launcher=launcher) as ranks:
        alone: list[float] = []

        def by_mpi(arithmetic: str) -> float:
            everything, transfers = map(float, ranks.ask(arithmetic).split())
            alone.append(transfers)
            return everything

        with Box.connect(server.address, transport="local") as box:
            buffer = box.create("exchange", x.size)
            turns = take_turns(
                {
                    "mpi": lambda: by_mpi("numpy"),
                    "mpi, one pass": lambda: by_mpi("numba"),
                    "exchange": timed(lambda: buffer.exchange(x, MOVING_RATE)),
                },
                effort.rounds,
            )
            buffer.close()
    yield Row(
        what="local exchange, times faster than by MPI get + accumulate",
        measured=turns.ratio("mpi", "exchange"),
        unit="x",
        at_least=4,
        detail=f"MPI {turns.milliseconds('mpi')} with NumPy's arithmetic between; {turns.milliseconds('mpi, one pass')}"
        f" ({turns.ratio('mpi, one pass', 'exchange'):.1f} x) with Numba's; get and accumulate alone"
        f" {statistics.median(alone[2 * WARM_UP :]) * 1e3:.1f} ms; exchange {turns.milliseconds('exchange')}",
        samples=turns.samples,
        quiet=turns.quiet,
    )


def _mpiexec() -> str:
    """The launcher of the MPI that mpi4py is linked with: the one beside this Python, if there is one."""
    found = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")
    if found is None:
        raise PeerError("there is no mpiexec. HINT: pip install mpich mpi4py")
    return found
