"""A worker whose weights count how often each sample was trained on: element i goes up by 1 with sample i.

The exchanges move what one side gives to the other, so the sum of all workers' and the shared weights has each sample
once for each time that it was trained on.

Usage: counting.py SIZE STEP_SECONDS POOLS: prints its weights at the end, and the shared ones.
"""

import sys
import time

import torch

import modum
from modum.rules import Elastic, Hybrid
from modum.torch import Averager

SIZE, SECONDS, POOLS = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
RULE = Hybrid(between=Elastic(moving_rate=0.25, pull=0.25, interval=3))

with modum.connect() as job:
    model = torch.nn.Linear(SIZE, 1, bias=False)
    model.weight.data.zero_()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    with Averager(job, model, optimizer, RULE, learning_rate_scale=None) as averager:
        averager.keep(scheduler=scheduler)
        job.rendezvous("all have zeros").barrier()
        for _ in range(POOLS):
            for batch in averager.indices(size=SIZE, batch_size=4, block=20):
                time.sleep(SECONDS)  # the work of a step
                model.weight.grad = torch.zeros_like(model.weight)
                # a group averages its members' gradients
                model.weight.grad[0, torch.from_numpy(batch)] = -float(job.group.size)
                optimizer.step()
                scheduler.step()
        averager.finish()
        steps = averager.statistics().steps
        assert scheduler.last_epoch == steps, (scheduler.last_epoch, steps)
        print("W", *model.weight.detach()[0].tolist(), flush=True)
        if job.rank == 0:
            with averager.shared_weights():
                print("G", *model.weight.detach()[0].tolist(), flush=True)
