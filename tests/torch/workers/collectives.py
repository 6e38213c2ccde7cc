"""A member of a group: runs the suite of groups."""

import torch

import modum
from modum.rules import Hybrid
from modum.testing import check_group
from modum.torch.group import group_of

with modum.connect() as job:
    group = group_of(job, Hybrid(), torch.device("cpu"))
    assert (group.rank, group.size) == (job.group.rank, job.group.size)
    check_group(group, torch.from_numpy, lambda tensor: tensor.numpy().copy())
    group.close()
    print("checked")
