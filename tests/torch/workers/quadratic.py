"""A worker of a hybrid job whose loss is a quadratic of its own at every step; groups take turns.

Usage: quadratic.py STEPS INTERVAL DIRECTORY PORT: does it twice, without and with overlap, and writes
weights and statistics after every step to DIRECTORY/waiting-RANK.npy and DIRECTORY/overlap-RANK.npy.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from tests.support import Floats, gradient, until
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

import modum
from modum.job import Job
from modum.rules import Elastic, Hybrid
from modum.torch import Averager

STEPS, INTERVAL, DIRECTORY = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])


def train(job: Job, name: str, process_group: dist.ProcessGroup | None) -> Floats:
    torch.manual_seed(0)
    model = torch.nn.Linear(41, 1, bias=False)
    average = torch.zeros(5)
    model.register_buffer("average", average)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    between = Elastic(moving_rate=0.3, interval=INTERVAL, overlap=name == "overlap")
    rule = Hybrid(inside=process_group, between=between)
    turn = job.box.counter(f"{name}/turn")
    after = []
    with Averager(job, model, optimizer, rule, name=name) as averager:
        for step in range(STEPS):
            turn.wait((step * job.groups + job.group.index) * job.group.size, 30)
            weights = model.weight.detach().numpy().ravel()
            model.weight.grad = torch.from_numpy(gradient(weights, job.rank, step)).view(1, -1)
            average.fill_(job.rank + step)
            optimizer.step()
            until(lambda: not averager.worker.exchanging, 30)
            after.append(np.concatenate([weights, average.numpy()]))
            turn.add(1)
    return np.array(after)


with modum.connect() as job:
    np.save(DIRECTORY / f"waiting-{job.rank}.npy", train(job, "waiting", None))
    # the second time with a process group of the user's own
    store = TCPStore("127.0.0.1", int(sys.argv[4]), is_master=job.rank == 0, wait_for_workers=False)
    group_store = PrefixStore(f"user/{job.group.index}", store)
    dist.init_process_group("gloo", store=group_store, rank=job.group.rank, world_size=job.group.size)
    np.save(DIRECTORY / f"overlap-{job.rank}.npy", train(job, "overlap", dist.group.WORLD))
    dist.destroy_process_group()
