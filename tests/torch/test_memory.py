"""How much memory a worker takes beside its model."""

import pytest

from modum.box import Server
from tests.torch.jobs import run_job


@pytest.mark.parametrize("group_size", [1, 2])
def test_a_worker_has_at_most_two_extra_copies_of_its_model(group_size: int) -> None:
    with Server(memory=1 << 28) as server:
        outputs = run_job("memory.py", servers=server.address, workers=group_size, group_size=group_size)
    for output in outputs:
        assert 0.9 < float(output) < 2.1  # a tenth for what does not grow with the model
