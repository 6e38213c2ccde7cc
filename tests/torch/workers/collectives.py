"""A member of a group: prints what every collective gave."""

import torch

from modum.cluster import detect
from modum.torch.group import launched_group

environment = detect()
group = launched_group(environment, torch.device("cpu"))
print(group.rank, group.size)
print(group.largest([group.rank, -group.rank, 0.5]))
print(group.broadcast(2**40 + environment.rank))
mean = torch.tensor([1.0, 2.0]) * (group.rank + 1)
group.average(mean)
print(mean.tolist())
whole = torch.zeros(7)
slices = [whole[0:4], whole[4:7]]
slices[group.rank].fill_(group.rank + 1)
group.share_out(slices)
print(whole.tolist())
group.close()
