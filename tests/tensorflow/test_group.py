"""Groups over TensorFlow's collectives."""

from pathlib import Path

import pytest

from modum.box import Server
from tests.torch.jobs import run_job

SCRIPT = Path(__file__).parent / "workers" / "collectives.py"


@pytest.mark.parametrize("members", [1, 2, 3])
def test_a_group_does_what_groups_do(members: int, server: Server) -> None:
    outputs = run_job(str(SCRIPT), servers=server.address, workers=members, group_size=members)
    assert [output.split() for output in outputs] == [["checked"]] * members
