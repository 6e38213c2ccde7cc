"""PyTorch's DistributedDataParallel over gloo, as its documentation has it.

python -m bench.peers.ddp        (RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in the environment)
"""

import time

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from bench.cluster.compute import Snapshots, batches, loss_of, make, optimizer_of
from bench.cluster.log import Log
from bench.cluster.place import rank, read_case


def main() -> None:
    """Train until the cluster is taken away. Buckets are reduced while the backward pass goes on."""
    case = read_case()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    model = make(case, rank())
    parallel = DistributedDataParallel(model, gradient_as_bucket_view=True)
    optimizer = optimizer_of(case, model)
    log = Log(rank())
    snapshots = Snapshots(case, rank())
    for inputs, labels in batches(case, rank()):
        model.pace.begin()
        optimizer.zero_grad()
        loss_of(case, parallel(inputs), labels).backward()  # type: ignore[no-untyped-call]
        compute = min(case.step_of(rank()), time.monotonic() - model.pace.start)
        optimizer.step()
        log.step(compute)
        if snapshots.due():
            snapshots.save(model)


if __name__ == "__main__":
    main()
