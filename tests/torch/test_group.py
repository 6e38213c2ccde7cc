"""Groups over torch.distributed."""

import re

import pytest

from modum.box import Server
from modum.cluster.registration import host_name
from modum.rules import Hybrid
from tests.torch.jobs import run_job


@pytest.mark.parametrize(("workers", "group_size"), [(1, 1), (4, 2), (3, 3)])
def test_a_group_does_what_groups_do(workers: int, group_size: int, server: Server) -> None:
    outputs = run_job("collectives.py", servers=server.address, workers=workers, group_size=group_size)
    assert [output.split() for output in outputs] == [["checked"]] * workers


@pytest.mark.parametrize(("victim", "number"), [(1, "SIGKILL"), (0, "SIGKILL"), (2, "SIGSTOP")])
def test_members_name_the_one_that_is_missing_and_its_last_step(victim: int, number: str, server: Server) -> None:
    outputs = run_job("losing.py", victim, number, servers=server.address, workers=3, group_size=3, dying={victim})
    state = f"on {host_name()} is there, but does not come" if number == "SIGSTOP" else "has died, or has left"
    for rank, output in enumerate(outputs):
        expected = (
            rf"this group of 3 workers cannot go on: rank {victim} {state} \(its last report was of step 5, .* ago\)\n"
        )
        assert re.fullmatch("" if rank == victim else expected, output), output


def test_a_rule_that_names_a_group_and_groups_inside_another_are_refused() -> None:
    with pytest.raises(ValueError, match="not another Hybrid"):
        Hybrid(between=Hybrid())
