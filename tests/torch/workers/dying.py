"""A worker of a job whose rank 0 dies in the middle of a block. Prints the samples of every block that it finished."""

import os
import signal

import torch

import modum
from modum.torch import Averager

with modum.connect() as job:
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    finished = job.box.counter("finished")
    with Averager(job, model, optimizer) as averager:
        for number, block in enumerate(averager.indices(size=600, batch_size=10, block=20).blocks()):
            for batch in block:
                optimizer.zero_grad()
                model(torch.randn(len(batch), 4)).square().mean().backward()
                optimizer.step()
                if job.rank == 0 and number == 2:
                    os.kill(os.getpid(), signal.SIGKILL)
            if job.group.rank == 0 and job.group.index == 1 and number == 0:
                finished.wait(2, 30)  # the other group has done something before it dies
            finished.add(int(job.rank == 0))
            print(*(index for batch in block for index in batch), flush=True)
        averager.finish(30)
