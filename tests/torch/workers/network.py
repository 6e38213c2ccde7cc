"""A worker that trains a small network of many parts, each member of a group on its own data.

Usage: network.py DIRECTORY: writes the model's state to DIRECTORY/RANK.pt and prints the statistics.
"""

import sys
from pathlib import Path

import torch
from torch import nn

import modum
from modum.rules import Elastic, Hybrid
from modum.torch import Averager


class Network(nn.Module):
    """A branch that only odd ranks use, one that nobody uses, and a batch normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9), nn.ReLU())
        self.used_by_odd = nn.Linear(9, 3)
        self.never_used = nn.Linear(9, 3)
        self.head = nn.Linear(9, 3).to(torch.bfloat16)

    def forward(self, x: torch.Tensor, odd: bool) -> torch.Tensor:
        hidden = self.trunk(x)
        output = self.head(hidden.bfloat16()).float()
        return output + self.used_by_odd(hidden) if odd else output  # type: ignore[no-any-return]


with modum.connect() as job:
    torch.manual_seed(job.rank)
    model = Network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    rule = Hybrid(between=Elastic(interval="auto"))
    with Averager(job, model, optimizer, rule, learning_rate_scale="sqrt", warmup_steps=5) as averager:
        untouched = model.never_used.weight.detach().clone()
        for batch in averager.indices(size=96, batch_size=8, epochs=2):
            optimizer.zero_grad()
            x = torch.randn(len(batch), 6)
            model(x, bool(job.rank % 2)).square().mean().backward()
            optimizer.step()
            assert model.never_used.weight.grad is None
        averager.finish(30)
        averager.worker.pull()
        assert torch.equal(model.never_used.weight, untouched)
        torch.save(model.state_dict(), Path(sys.argv[1]) / f"{job.rank}.pt")
        print(averager.statistics().steps)

    # an optimizer that evaluates the loss itself sees the group's, and takes the same steps in all members
    linear = nn.Linear(3, 1)
    x, y = torch.randn(20, 3), torch.randn(20, 1)
    lbfgs = torch.optim.LBFGS(linear.parameters(), lr=0.5, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        lbfgs.zero_grad()
        loss = nn.functional.mse_loss(linear(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with Averager(job, linear, lbfgs, Hybrid(between=Elastic(interval=2)), name="linear"):
        for _ in range(4):
            lbfgs.step(closure)  # type: ignore[no-untyped-call]
    torch.save(linear.state_dict(), Path(sys.argv[1]) / f"linear-{job.rank}.pt")
