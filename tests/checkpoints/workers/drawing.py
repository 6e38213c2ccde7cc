"""A loop of its own that draws random numbers of all kinds, and trains on them; prints each step and what was drawn.

Usage: drawing.py STEPS [forgetful|renamed|careless]: with less kept than before, with another name, or from 0 on.
"""

import random
import sys
import time

import numpy as np
import torch

import modum
from modum.torch import Averager

STEPS, KIND = int(sys.argv[1]), "".join(sys.argv[2:])
NAME = "other" if KIND == "renamed" else "model"

with modum.connect() as job:
    linear, norm = torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)
    model = torch.nn.Sequential(linear, norm)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10, 0.9)
    with Averager(job, model, optimizer, "elastic:interval=4,overlap=False", name=NAME) as averager:
        if KIND != "forgetful":
            averager.keep(scheduler=scheduler)
        for step in range(0 if KIND == "careless" else averager.resume(), STEPS):
            x = torch.rand(6, 3) + torch.from_numpy(np.random.rand(6, 3).astype("float32")) * random.random()  # noqa: S311
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
            scheduler.step()
            print(step, x.sum().item(), optimizer.param_groups[0]["lr"], linear.weight.sum().item(), flush=True)
            time.sleep(0.01)  # the work of a step
            averager.checkpoint()
        averager.finish()
        print("end", averager.statistics().steps, norm.state_dict()["num_batches_tracked"].item(), flush=True)
