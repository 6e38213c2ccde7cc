"""Models and scripts that something else would distribute too, and optimizers in wrappers."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore

from modum.box import Box, Server
from modum.torch import Averager
from modum.torch.flat import shared_tensors
from tests.torch.jobs import WORKERS, run_job
from tests.torch.workplace import Make, sgd


@pytest.fixture
def two_processes() -> Iterator[None]:
    """This process is one of two, and the other one is not there."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield
    dist.destroy_process_group()


@pytest.fixture
def one_process() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    yield
    dist.destroy_process_group()


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def names(module: nn.Module) -> list[str]:
    return [shared.name for shared in shared_tensors(module)]


@pytest.mark.usefixtures("one_process")
def test_wrappers_that_do_nothing_are_taken_off() -> None:
    def compiled(module: nn.Module) -> Any:
        return torch.compile(module, backend="aot_eager")

    plain = names(model())
    assert names(DistributedDataParallel(model())) == plain
    assert names(DataParallel(model())) == plain
    assert names(compiled(DistributedDataParallel(compiled(model())))) == plain
    parts = {"module": model(), "critic": nn.Linear(3, 1)}
    expected = names(nn.ModuleDict(parts))
    assert names(nn.ModuleDict({name: DistributedDataParallel(part) for name, part in parts.items()})) == expected


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "DistributedDataParallel": (
        lambda: DistributedDataParallel(model()),
        r"the model is a DistributedDataParallel over 2 processes: .*\(model\.module\)\nHINT: .*modum\.connect\(\)",
    ),
    "a part": (
        lambda: nn.ModuleDict({"critic": DistributedDataParallel(model())}),
        r"critic is a DistributedDataParallel over 2 processes: ",
    ),
    "FullyShardedDataParallel": (
        lambda: FullyShardedDataParallel(model(), device_id=torch.device("cpu")),
        r"the model is sharded \(FullyShardedDataParallel\): .*\(modum\.torch\.partition\)",
    ),
    "fully_shard": (
        lambda: fully_shard(model(), mesh=init_device_mesh("cpu", (2,))),
        r"the model is sharded \(FSDPSequential\): .*\(modum\.torch\.partition\)",
    ),
    "tensor parallelism": (
        lambda: parallelize_module(model(), init_device_mesh("cpu", (2,)), {"0": ColwiseParallel()}),
        r"0\.weight is a DTensor, part of a parameter .*\(modum\.torch\.partition\)",
    ),
}


@pytest.mark.usefixtures("two_processes")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", REFUSED)
def test_what_distributes_the_model_is_refused_by_name(kind: str) -> None:
    make, message = REFUSED[kind]
    with pytest.raises(ValueError, match=message):
        shared_tensors(make())


def test_several_devices_in_one_worker_are_refused() -> None:
    wrapped = DataParallel(model())
    wrapped.device_ids = [0, 1]
    with pytest.raises(ValueError, match=r"DataParallel over 2 devices: .* start 2 workers .*job\.local_rank"):
        shared_tensors(wrapped)


def test_a_script_that_looks_for_its_rank_trains_alone_in_a_group_of_one(server: Server) -> None:
    outputs = run_job("aware.py", servers=server.address, workers=2, group_size=1)
    assert [output.split() for output in outputs] == [["0", "1"]] * 2


def test_a_script_that_looks_for_its_rank_finds_the_members_of_its_group() -> None:
    command = [sys.executable, "-m", "modum", "run", "-n", "4", "--group-size", "2", str(Path(WORKERS) / "aware.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["[0] 0 2", "[1] 1 2", "[2] 0 2", "[3] 1 2"]


class Accelerated(torch.optim.Optimizer):
    """An optimizer in name only, like that of Accelerate."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.optimizer.step(closure)


class Wrapper:
    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer
        self.step = optimizer.step


def test_the_steps_of_an_optimizer_in_wrappers_count(box: Box, averager: Make) -> None:
    model = nn.Linear(2, 2)
    plain = sgd(model)
    wrapped = Wrapper(Accelerated(plain))
    ours: Averager = averager(model, wrapped, box)
    plain.zero_grad()
    model(torch.randn(4, 2)).sum().backward()
    wrapped.step()
    assert ours.statistics().steps == 1
    ours.add_optimizer(Accelerated(plain))
    plain.step()
    assert ours.statistics().steps == 2


def test_what_is_no_optimizer_is_refused_by_name(box: Box, averager: Make) -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(
        TypeError, match=r"torch\.nn\.modules\.linear\.Linear\) is no torch\.optim\.Optimizer and wraps"
    ):
        averager(model, model, box)


@pytest.mark.usefixtures("two_processes")
@pytest.mark.filterwarnings("ignore")
def test_an_optimizer_that_steps_a_part_in_each_process_is_refused(box: Box, averager: Make) -> None:
    from torch.distributed.optim import ZeroRedundancyOptimizer  # warns

    model = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="ZeroRedundancyOptimizer steps a part"):
        averager(model, ZeroRedundancyOptimizer(model.parameters(), torch.optim.SGD, lr=0.1), box)
