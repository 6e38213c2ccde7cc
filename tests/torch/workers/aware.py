"""A script that becomes DistributedDataParallel if the environment says so, as many do, in a worker of a job.

Prints its rank, and of how many processes it is one.
"""

import os

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import modum
from modum.torch import Averager

with modum.connect() as job:
    rank, world_size = 0, 1
    model = trained = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
        rank, world_size = dist.get_rank(), dist.get_world_size()
        trained = DistributedDataParallel(model)  # type: ignore[assignment]
        with pytest.raises(ValueError, match="is a DistributedDataParallel over 2 processes"):
            Averager(job, trained, optimizer)
    assert (rank, world_size) == (job.group.rank, job.group.size)
    with Averager(job, model, optimizer) as averager:
        for x in averager.indices(size=64, batch_size=8):
            optimizer.zero_grad()
            trained(torch.full((len(x), 2), float(job.rank))).mean().backward()
            members = range(job.group.index * world_size, (job.group.index + 1) * world_size)
            assert model.weight.grad is not None
            assert model.weight.grad.tolist() == [[sum(members) / world_size] * 2]
            optimizer.step()
        averager.finish(60)
    del trained  # its threads end before those of the process group
    if dist.is_initialized():
        dist.destroy_process_group()
    print(rank, world_size)
