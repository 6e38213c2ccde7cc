"""An elastic exchange over MPI one-sided operations: the origin is rank 0, the shared numbers are in rank 1's window.

    mpiexec -n 2 python -m bench.peers.mpi NBYTES

Under an exclusive lock of the window: get g, compute d = a (x - g) and x -= d, accumulate d. The line that asks names
the arithmetic: `numpy`, as programs of mpi4py have it, or `numba`, in one pass. Answers with two numbers: the seconds
of all of it, and those of the get and the accumulate (with their flushes) alone.
"""

import sys
import time
from typing import Any

import numpy as np
from mpi4py import MPI
from numba import njit

Array = np.ndarray[tuple[int], np.dtype[np.float32]]

MOVING_RATE = np.float32(0.3)
_GO, _STOP = 1, 2
_NAP = 0.001  # seconds between two looks of the target: MPI itself would spin, and take the core from the other side


def _move(x: Array, d: Array) -> None:
    """d holds g, and then the difference by which x has moved."""
    np.subtract(x, d, out=d)
    np.multiply(d, MOVING_RATE, out=d)
    np.subtract(x, d, out=x)


@njit
def _move_in_one_pass(x: Any, d: Any) -> None:
    for i in range(x.size):
        moved = MOVING_RATE * (x[i] - d[i])
        x[i] -= moved
        d[i] = moved


ARITHMETIC = {"numpy": _move, "numba": _move_in_one_pass}


def exchange(window: MPI.Win, target: int, x: Array, d: Array, arithmetic: str) -> tuple[float, float]:
    """One elastic exchange with the window of rank ``target``; (seconds, seconds of the transfers alone)."""
    start = time.perf_counter()
    window.Lock(target, MPI.LOCK_EXCLUSIVE)
    window.Get(d, target)
    window.Flush(target)
    received = time.perf_counter()
    ARITHMETIC[arithmetic](x, d)
    computed = time.perf_counter()
    window.Accumulate(d, target, op=MPI.SUM)
    window.Unlock(target)
    end = time.perf_counter()
    return end - start, (received - start) + (end - computed)


def main(nbytes: int) -> None:
    """Exchange once a line; both ranks are within MPI while it is timed."""
    world = MPI.COMM_WORLD
    window = MPI.Win.Allocate(nbytes, 4, comm=world)
    np.asarray(window.tomemory()).view(np.float32)[:] = 0
    world.Barrier()
    if world.rank == 0:
        x, d = np.ones(nbytes // 4, np.float32), np.empty(nbytes // 4, np.float32)
        print("ready", flush=True)
        for line in sys.stdin:
            world.send(None, 1, _GO)
            print(*exchange(window, 1, x, d, line.strip()), flush=True)
            world.Barrier()
        world.send(None, 1, _STOP)
    else:
        status = MPI.Status()
        while True:
            while not world.iprobe(0, status=status):
                time.sleep(_NAP)
            world.recv(source=0)
            if status.tag == _STOP:
                break
            world.Barrier()
    window.Free()


if __name__ == "__main__":
    main(int(sys.argv[1]))
