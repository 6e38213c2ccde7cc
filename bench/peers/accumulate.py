"""Elastic averaging over one-sided operations of MPI, by mpi4py: every rank's window has a part of the shared weights.

    mpiexec -n 4 python -m bench.peers.accumulate

After each step a worker locks one window after the other, gets the shared numbers, and accumulates the difference.
"""

import time

import numpy as np
import torch
from mpi4py import MPI

from bench.cluster.compute import batches, loss_of, make, optimizer_of
from bench.cluster.log import Log
from bench.cluster.place import read_case
from bench.peers.mpi import exchange


def main() -> None:
    """Train until the cluster is taken away."""
    case = read_case()
    world = MPI.COMM_WORLD
    torch.set_num_threads(1)
    model = make(case, world.rank)
    optimizer = optimizer_of(case, model)
    flat = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    torch.nn.utils.vector_to_parameters(flat, model.parameters())  # views of it from now on
    parts = np.array_split(flat.numpy(), world.size)
    received = [np.empty_like(part) for part in parts]
    window = MPI.Win.Allocate(parts[world.rank].nbytes, 4, comm=world)
    np.asarray(window.tomemory()).view(np.float32)[:] = parts[world.rank]
    world.Barrier()
    log = Log(world.rank)
    for inputs, labels in batches(case, world.rank):
        model.pace.begin()
        optimizer.zero_grad()
        loss_of(case, model(inputs), labels).backward()  # type: ignore[no-untyped-call]
        compute = time.monotonic() - model.pace.start
        optimizer.step()
        for turn in range(world.size):
            target = (world.rank + turn) % world.size
            exchange(window, target, parts[target], received[target], "numpy")
        log.step(compute)


if __name__ == "__main__":
    main()
