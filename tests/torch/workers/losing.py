"""A member of a group of three, of which one is killed or stopped at a step: prints the others' error."""

import os
import signal
import sys
from datetime import timedelta

import torch

import modum
from modum.errors import MemberLostError
from modum.rules import Elastic, Hybrid
from modum.torch import Averager

victim, number = int(sys.argv[1]), signal.Signals[sys.argv[2]]
with modum.connect() as job:
    model = torch.nn.Linear(40, 30)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    job.box.value(f"pid {job.rank}").set(os.getpid())
    averager = Averager(job, model, optimizer, Hybrid(between=Elastic(interval=2)))
    torch.distributed.distributed_c10d._set_pg_timeout(timedelta(seconds=3), torch.distributed.group.WORLD)
    try:
        for step in range(10):
            if step == 5 and job.rank == victim:
                job.flush()
                os.kill(os.getpid(), number)
            optimizer.zero_grad()
            model(torch.ones(4, 40)).square().mean().backward()
            optimizer.step()
    except MemberLostError as error:
        print(str(error).splitlines()[0], flush=True)
    if number == signal.SIGSTOP and job.rank == (victim + 1) % 3:
        os.kill(job.box.value(f"pid {victim}").get(), signal.SIGKILL)
    os._exit(0)
