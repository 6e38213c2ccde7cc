"""Gradients of a group, in real processes over gloo, against those of other implementations."""

from modum.box import Server
from tests.torch.jobs import run_job


def test_the_gradients_of_a_group_are_those_of_the_whole_batch_when_the_backward_pass_returns(server: Server) -> None:
    outputs = run_job("gradients.py", servers=server.address, workers=2, group_size=2)
    for output in outputs:
        assert len(output.split()) == 17, output
