"""What every group must do: one suite for all implementations."""

import pytest
import torch

from modum.box import Server
from modum.groups import Alone, Group
from modum.torch import TorchGroup
from tests.torch.jobs import run_job


@pytest.mark.parametrize("group", [Alone(), TorchGroup()], ids=["alone", "torch"])
def test_a_group_of_one_agrees_with_itself(group: Group) -> None:
    assert (group.rank, group.size) == (0, 1)
    assert group.largest([3, -1.5]) == (3.0, -1.5)
    assert group.broadcast(2**40) == 2**40


def test_the_collectives_of_a_group_of_one_change_nothing() -> None:
    group, tensor = TorchGroup(), torch.tensor([1.0, 2.0])
    group.average(tensor)
    group.align(tensor)
    assert tensor.tolist() == [1.0, 2.0]


def test_all_members_get_the_same_in_each_of_two_groups(server: Server) -> None:
    outputs = run_job("collectives.py", servers=server.address, workers=4, group_size=2)
    for worker, output in enumerate(outputs):
        group, rank = divmod(worker, 2)
        assert output.splitlines() == [
            f"{rank} 2",
            "(1.0, 0.0, 0.5)",
            str(2**40 + 2 * group),  # the leader's
            "[1.5, 3.0]",
            "[1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0]",
        ]
