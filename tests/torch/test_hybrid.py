"""Groups of real processes over gloo, against the published equations."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from modum.box import Server
from modum.cluster.ports import free_port
from tests.support import Floats, elastic_reference, gradient
from tests.torch.jobs import run_job


@dataclass(frozen=True)
class Job:
    groups: int
    group_size: int
    directory: Path

    def after(self, mode: str, rank: int) -> Floats:
        """Weights and statistics, one row a step."""
        rows: Floats = np.load(self.directory / f"{mode}-{rank}.npy")
        return rows


RATE, INTERVAL, STEPS = 0.3, 2, 8
WEIGHTS = 41


def start() -> Floats:
    """The first worker's weights, and its statistics."""
    torch.manual_seed(0)
    model = torch.nn.Linear(WEIGHTS, 1, bias=False)
    return np.concatenate([model.weight.detach().numpy().ravel(), np.zeros(5, np.float32)])


def reference(groups: int, group_size: int, *, overlap: bool) -> list[list[Floats]]:
    """The weights of every group after every step: mean gradients inside, elastic averaging between in turn."""
    G = start()
    W = [G.copy() for _ in range(groups)]
    pending: list[Floats | None] = [None] * groups
    after: list[list[Floats]] = [[] for _ in range(groups)]
    for step in range(STEPS):
        for group in range(groups):
            ranks = range(group * group_size, (group + 1) * group_size)
            weights = W[group][:WEIGHTS]
            gradients = [gradient(weights, rank, step) for rank in ranks]
            weights -= np.float32(0.1) * np.mean(gradients, axis=0)
            W[group][WEIGHTS:] = np.mean([rank + step for rank in ranks])
            if (step + 1) % INTERVAL == 0:
                if overlap:
                    if (correction := pending[group]) is not None:
                        W[group] -= correction
                    snapshot = W[group].copy()
                    elastic_reference(snapshot, G, RATE)
                    pending[group] = W[group] - snapshot
                else:
                    elastic_reference(W[group], G, RATE)
            after[group].append(W[group].copy())
    return after


@pytest.fixture(scope="module", params=[(2, 2), (1, 3)], ids=["two of two", "one of three"])
def job(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """What the workers' weights were after every step, without and with overlap."""
    groups, group_size = request.param
    directory = tmp_path_factory.mktemp("job")
    with Server(memory=1 << 24) as server:
        run_job(
            "quadratic.py",
            *(STEPS, INTERVAL, directory, free_port()),
            servers=server.address,
            workers=groups * group_size,
            group_size=group_size,
        )
    return Job(groups, group_size, directory)


@pytest.mark.parametrize("mode", ["waiting", "overlap"])
def test_groups_follow_the_published_equations(mode: str, job: Job) -> None:
    expected = reference(job.groups, job.group_size, overlap=mode == "overlap")
    for rank in range(job.groups * job.group_size):
        group = np.array(expected[rank // job.group_size])
        np.testing.assert_allclose(job.after(mode, rank)[:, :WEIGHTS], group[:, :WEIGHTS], rtol=0, atol=2e-6)


def test_the_statistics_of_a_group_are_averaged_before_its_exchange(job: Job) -> None:
    exchanges = slice(INTERVAL - 1, None, INTERVAL)
    expected = reference(job.groups, job.group_size, overlap=False)
    for rank in range(job.groups * job.group_size):
        group = np.array(expected[rank // job.group_size])[exchanges, WEIGHTS:]
        statistics = job.after("waiting", rank)[exchanges, WEIGHTS:]
        np.testing.assert_allclose(statistics, group, rtol=0, atol=2e-6)


def test_a_group_that_lost_a_member_ends_and_the_others_do_its_block_again(server: Server) -> None:
    outputs = run_job("dying.py", servers=server.address, workers=4, group_size=2, dying=(0, 1))
    done = [[int(index) for index in output.split()] for output in outputs]
    assert len(done[0]) == len(done[1]) == 20  # their parts of the two blocks that they finished
    assert sorted(index for samples in done for index in samples) == list(range(600))


def test_members_stay_the_same_to_the_bit_whatever_gradients_they_have(server: Server, tmp_path: Path) -> None:
    steps = run_job("network.py", tmp_path, servers=server.address, workers=4, group_size=2)
    states = [torch.load(tmp_path / f"{rank}.pt") for rank in range(4)]
    assert steps[0] == steps[1]
    assert steps[2] == steps[3]
    assert sum(int(count) for count in steps) == 2 * 2 * 96 // 8
    for other in states[1:]:
        for name, value in states[0].items():
            if "num_batches_tracked" not in name:
                assert torch.equal(value, other[name]), name
    linears = [torch.load(tmp_path / f"linear-{rank}.pt") for rank in range(4)]
    for first, second in (linears[:2], linears[2:]):
        assert torch.equal(first["weight"], second["weight"])


def test_members_restore_their_weights_together_when_one_of_them_finds_nan(server: Server) -> None:
    one, other = run_job("spoiled.py", servers=server.address, workers=2, group_size=2)
    assert one.split()[:2] == ["True", "1"]
    assert one == other
