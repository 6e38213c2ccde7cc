"""Groups over torch.distributed."""

import pytest

from modum.box import Server
from modum.rules import Hybrid
from tests.torch.jobs import run_job


@pytest.mark.parametrize(("workers", "group_size"), [(1, 1), (4, 2), (3, 3)])
def test_a_group_does_what_groups_do(workers: int, group_size: int, server: Server) -> None:
    outputs = run_job("collectives.py", servers=server.address, workers=workers, group_size=group_size)
    assert [output.split() for output in outputs] == [["checked"]] * workers


def test_a_rule_that_names_a_group_and_groups_inside_another_are_refused() -> None:
    with pytest.raises(ValueError, match="not another Hybrid"):
        Hybrid(between=Hybrid())
