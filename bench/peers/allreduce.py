"""Synchronous SGD over MPI: one all-reduce of all gradients after each backward pass, by mpi4py.

mpiexec -n 8 python -m bench.peers.allreduce
"""

import time

import numpy as np
import torch
from mpi4py import MPI

from bench.cluster.compute import batches, loss_of, make, optimizer_of
from bench.cluster.log import Log
from bench.cluster.place import read_case


def main() -> None:
    """Train until the cluster is taken away."""
    case = read_case()
    world = MPI.COMM_WORLD
    torch.set_num_threads(1)
    model = make(case, world.rank)
    optimizer = optimizer_of(case, model)
    flat = torch.zeros(sum(parameter.numel() for parameter in model.parameters()))
    start = 0
    for parameter in model.parameters():
        # gradients lie behind each other, so that one message carries them all
        parameter.grad = flat[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()
    gradients: np.ndarray[tuple[int], np.dtype[np.float32]] = flat.numpy()
    log = Log(world.rank)
    for inputs, labels in batches(case, world.rank):
        model.pace.begin()
        flat.zero_()
        loss_of(case, model(inputs), labels).backward()  # type: ignore[no-untyped-call]
        compute = time.monotonic() - model.pace.start
        world.Allreduce(MPI.IN_PLACE, gradients)
        gradients /= world.size
        optimizer.step()
        log.step(compute)


if __name__ == "__main__":
    main()
