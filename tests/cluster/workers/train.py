"""One script for every launcher: adds with an exact sum, then a small training, as any user would write them.

Rank 0 prints what came out as JSON.
"""

import json

import numpy as np
import torch
from torch.nn.functional import mse_loss

import modum
from modum.torch import Averager

SIZE, ADDS = 300_000, 5  # more than one chunk

job = modum.connect()
box = job.box
if job.rank == 0:
    total = box.create("total", SIZE)
    box.counter("made").add(1)
else:
    box.counter("made").wait(1)
    total = box.open("total")
for _ in range(ADDS):
    total.add(np.full(SIZE, job.rank + 1, np.float32))
box.counter("added").add(1)
box.counter("added").wait(job.world_size)
sums = np.unique(total.read()).tolist()

torch.manual_seed(0)
x = torch.randn(256, 8)
y = x @ torch.arange(8.0) + 1.0
model = torch.nn.Linear(8, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
rule = modum.Hybrid(between=modum.Elastic(interval=4, overlap=False))  # with one group, the same bits each time
averager = Averager(job, model, optimizer, rule)
for batch in averager.indices(size=len(x), batch_size=32, epochs=2):
    optimizer.zero_grad()
    mse_loss(model(x[batch]).squeeze(1), y[batch]).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
averager.finish()
with averager.shared_weights():
    weights = torch.cat([parameter.flatten() for parameter in model.parameters()]).tolist()
if job.rank == 0:
    place = [job.world_size, job.groups, job.group.size]
    print(json.dumps({"place": place, "sums": sums, "weights": weights, "servers": box.servers}), flush=True)
averager.close()
