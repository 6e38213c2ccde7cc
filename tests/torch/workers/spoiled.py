"""A worker of a group of two, in which the second member's gradients are spoiled once: prints how the weights ended."""

import logging

import torch

import modum
from modum.rules import Elastic, Hybrid
from modum.torch import Averager

logging.basicConfig(level=logging.WARNING, force=True)
with modum.connect() as job:
    torch.manual_seed(0)
    head = torch.nn.Linear(30, 1)
    model = torch.nn.Sequential(torch.nn.Linear(40, 30), head)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    rule = Hybrid(between=Elastic(interval=1, overlap=False))
    with Averager(job, model, optimizer, rule) as averager:
        for step in range(8):
            optimizer.zero_grad()
            model(torch.ones(4, 40)).square().mean().backward()
            if step == 3:
                # all members have it, as they do after a backward pass; but it lies in one member's slice only
                head.bias.grad = torch.full_like(head.bias, torch.nan)
            with averager.shared_weights():
                before = [parameter.detach().clone() for parameter in model.parameters()]
            optimizer.step()
            with averager.shared_weights():
                kept = all(map(torch.equal, before, model.parameters()))
            assert kept == (step == 3), "no member shares its slice of that step"
        averager.finish()
        finite = all(bool(parameter.isfinite().all()) for parameter in model.parameters())
        print(finite, averager.statistics().restored, f"{sum(p.double().sum() for p in model.parameters()):.12f}")
