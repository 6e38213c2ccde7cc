"""A member of a group whose gradients are compared with those of other implementations.

Runs every case one after the other, and prints the name of each that is done.
"""

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import modum
import modum.torch.gradients
from modum.job import Job
from modum.rules import Elastic, Hybrid
from modum.torch import Averager, TorchGroup

modum.torch.gradients.BUCKET_BYTES = 64  # type: ignore[misc]

RULE = Hybrid(between=Elastic(interval=1000))
names = iter(map(str, range(100)))


class Network(nn.Module):
    """A branch for each rank, a layer that is used twice, and one that nobody uses."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(4, 6)
        self.twice = nn.Linear(6, 6)
        self.branches = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
        self.never = nn.Linear(6, 6)
        self.last = nn.Linear(6, 1)

    def forward(self, x: Tensor, branch: int | None = None) -> Tensor:
        hidden = self.twice(self.twice(self.first(x)).tanh())
        if branch is not None:
            hidden = self.branches[branch](hidden)
        return self.last(hidden.tanh())  # type: ignore[no-any-return]


@contextmanager
def averaged(job: Job, model: nn.Module) -> Iterator[tuple[Averager, torch.optim.SGD]]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with Averager(job, model, optimizer, RULE, name=next(names)) as averager:
        yield averager, optimizer


@contextmanager
def sums_begun() -> Iterator[list[Tensor]]:
    """A list that has the tensors of all all-reduces of buckets so far."""
    begun: list[Tensor] = []
    begin_sum = TorchGroup.begin_sum

    def noted(group: TorchGroup, tensor: Tensor) -> dist.Work:
        begun.append(tensor)
        return begin_sum(group, tensor)

    with patch.object(TorchGroup, "begin_sum", noted):
        yield begun


def batch(job: Job, number: int = 0) -> Tensor:
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(10 * number + job.rank))


def gradients(model: nn.Module) -> dict[str, Tensor | None]:
    return {
        name.removeprefix("module."): None if parameter.grad is None else parameter.grad.clone()
        for name, parameter in model.named_parameters()
    }


def mean(mine: dict[str, Tensor | None], like: nn.Module) -> dict[str, Tensor | None]:
    """The mean over the members, one tensor after the other."""
    means: dict[str, Tensor | None] = {}
    for name, parameter in like.named_parameters():
        gradient = mine[name]
        there = torch.tensor(float(gradient is not None))
        total = torch.zeros_like(parameter) if gradient is None else gradient.clone()
        dist.all_reduce(there)
        dist.all_reduce(total)
        means[name] = total / dist.get_world_size() if there.item() else None
    return means


def same(found: dict[str, Tensor | None], expected: dict[str, Tensor | None]) -> None:
    """Equal to what is expected, and bit for bit in all members."""
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        wanted = expected[name]
        if gradient is None or wanted is None:
            assert gradient is wanted, name
            continue
        torch.testing.assert_close(gradient, wanted, msg=partial("{}: {}".format, name))
        leaders = gradient.clone()
        dist.broadcast(leaders, 0)
        assert torch.equal(leaders, gradient), name


def clipped(job: Job) -> None:
    """Two halves of a batch, clipped, make the step of the batch."""
    model = nn.Linear(4, 1, bias=False)
    nn.init.zeros_(model.weight)
    x = torch.tensor([[10.0, 0, 0, 0], [0, 0.1, 0, 0]])
    with averaged(job, model) as (_, optimizer):
        model(x[job.rank : job.rank + 1]).sum().backward()
        assert model.weight.grad is not None
        assert model.weight.grad.tolist() == [[5, torch.tensor(0.05).item(), 0, 0]]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        torch.testing.assert_close(model.weight.detach(), torch.tensor([[-0.99995, -0.0099995, 0, 0]]))


def unused(job: Job) -> None:
    """Against DistributedDataParallel: each member uses parameters that the others do not."""
    model = Network()
    with averaged(job, model):
        peer = DistributedDataParallel(copy.deepcopy(model), find_unused_parameters=True)
        for step in range(3):
            branch = job.rank if step < 2 else None
            for each in (model, peer):
                each(batch(job, step), branch).square().sum().backward()
            same(gradients(model), gradients(peer))
            assert model.never.weight.grad is None
            if step == 1:
                for each in (model, peer):
                    each.zero_grad()


def accumulated(job: Job) -> None:
    """Against DistributedDataParallel: passes inside no_sync and outside, in every order."""
    model = Network()
    with averaged(job, model) as (averager, _):
        peer = DistributedDataParallel(copy.deepcopy(model), find_unused_parameters=True)
        for number, synced in enumerate([True, True, False, False, True, False, True]):
            with nullcontext() if synced else averager.no_sync():
                model(batch(job, number), job.rank if number == 3 else None).square().sum().backward()
            with nullcontext() if synced else peer.no_sync():
                peer(batch(job, number), job.rank if number == 3 else None).square().sum().backward()
            if synced:
                same(gradients(model), gradients(peer))
            else:
                for name, gradient in gradients(model).items():
                    torch.testing.assert_close(gradient, gradients(peer)[name])


def checked_against_the_mean(
    job: Job, forward: Callable[[Any, Tensor], Tensor], make: Callable[[], nn.Module] = Network
) -> None:
    model = make()
    local = copy.deepcopy(model)
    with averaged(job, model):
        for number in range(2):
            x = batch(job, number).requires_grad_()
            before = gradients(model)
            forward(local, x).square().sum().backward()  # type: ignore[no-untyped-call]
            expected = mean(gradients(local), local)
            forward(model, x).square().sum().backward()  # type: ignore[no-untyped-call]
            same(gradients(model), expected)
            for parameter, name in zip(local.parameters(), before, strict=True):
                parameter.grad = expected[name]


def checkpointed(job: Job) -> None:
    def forward(model: Network, x: Tensor) -> Tensor:
        hidden = checkpoint(lambda x: model.twice(model.first(x)).tanh(), x, use_reentrant=False)
        return checkpoint(lambda x: model.last(model.twice(x)), hidden, use_reentrant=False)  # type: ignore[no-any-return]

    checked_against_the_mean(job, forward)


def checkpointed_by_inner_passes(job: Job) -> None:
    """Passes inside the pass: one layer has gradients of two of them, and one of no pass inside."""

    def make() -> nn.Module:
        torch.manual_seed(0)
        layers = {name: nn.Linear(4, 4) for name in ("first", "between", "twice", "last")}
        return nn.ModuleDict(layers)

    def forward(model: nn.ModuleDict, x: Tensor) -> Tensor:
        hidden = checkpoint(lambda x: model["twice"](model["first"](x)).tanh(), x, use_reentrant=True)
        hidden = model["between"](hidden)
        return checkpoint(lambda x: model["last"](model["twice"](x)), hidden, use_reentrant=True)  # type: ignore[no-any-return]

    with sums_begun() as begun:
        checked_against_the_mean(job, forward, make)
    buckets = {memory.data_ptr() for memory in begun}
    assert len(buckets) == 8, "one for each parameter, of 64 bytes"
    assert len(begun) == 2 * (8 + 2), "once a pass, and again the two of the layer that is used twice"


def compiled(job: Job) -> None:
    def forward(model: Network, x: Tensor) -> Tensor:
        return torch.compile(model, backend="aot_eager")(x, job.rank)  # type: ignore[no-any-return]

    checked_against_the_mean(job, forward)


def kept_graphs(job: Job) -> None:
    model = Network()
    with averaged(job, model):
        loss = model(batch(job)).square().sum()
        if job.rank == 0:  # not collective
            torch.autograd.grad(loss, model.first.weight, retain_graph=True)
        assert model.first.weight.grad is None
        loss.backward(retain_graph=True)
        once = gradients(model)
        with warnings.catch_warnings(action="ignore"):  # of the cycle that is broken below
            loss.backward(retain_graph=True, create_graph=True)
        for name, gradient in gradients(model).items():
            assert (gradient is None) == (once[name] is None)
            if gradient is not None and (before := once[name]) is not None:
                torch.testing.assert_close(gradient, 2 * before)
        for parameter in model.parameters():
            parameter.grad = None


def under_the_pass(job: Job) -> None:
    """All-reduces begin while the pass goes on, once it is known which layers nobody uses."""
    model = Network()
    before_the_first_layer: list[int] = []
    with averaged(job, model), sums_begun() as begun:

        def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            output.register_hook(lambda _: before_the_first_layer.append(len(begun)))  # type: ignore[no-untyped-call]

        model.first.register_forward_hook(note)
        model(batch(job)).sum().backward()
        assert before_the_first_layer == [2], "the last layer's: those of unused layers hold the others up"
        assert len(begun) == 12
        begun.clear()
        model(batch(job)).sum().backward()
        assert before_the_first_layer == [2, 4], "those of the layer that is used twice too"


def broken_off(job: Job) -> None:
    """A pass that an error ends leaves nothing to the next one."""
    model = Network()
    with averaged(job, model):
        local = copy.deepcopy(model)

        def fail(_: Tensor) -> None:
            raise ZeroDivisionError

        for _ in range(2):
            output = model(batch(job))
            hook = model.first.weight.register_hook(fail)  # type: ignore[no-untyped-call]
            try:
                output.sum().backward()
            except ZeroDivisionError as error:
                kept = error
            hook.remove()
            model.zero_grad()
            for each in (model, local):
                each.zero_grad()
                each(batch(job, 1)).square().sum().backward()
            same(gradients(model), mean(gradients(local), local))
            assert kept is not None


def sparse(job: Job) -> None:
    model = nn.ModuleDict({"table": nn.Embedding(4, 2, sparse=True), "last": nn.Linear(2, 1)})
    with averaged(job, model):
        for _ in range(2):
            with pytest.raises(ValueError, match=r"gradient of table\.weight is sparse: groups need dense ones"):
                model["last"](model["table"](torch.tensor([1]))).sum().backward()


def by_hand(job: Job) -> None:
    """What no pass has made is averaged at the step; what a pass has averaged is not touched there."""
    model = nn.Linear(2, 1)
    with averaged(job, model) as (averager, optimizer):
        start = [parameter.detach().clone() for parameter in model.parameters()]
        model.weight.grad = torch.full((1, 2), float(job.rank))
        optimizer.step()
        torch.testing.assert_close(model.weight.detach(), start[0] - 0.5)
        assert model.bias.grad is None
        optimizer.zero_grad()
        with averager.no_sync():
            model(torch.full((2,), float(job.rank))).sum().backward()
        optimizer.step()
        torch.testing.assert_close(model.weight.detach(), start[0] - 1)
        torch.testing.assert_close(model.bias.detach(), start[1] - 1)


def beside_another_optimizer(job: Job) -> None:
    """The parameters of an optimizer that the averager does not know stay the same in all members too."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"critic": nn.Linear(2, 1), "generator": nn.Linear(2, 2)})
    optimizers = {name: torch.optim.SGD(each.parameters(), 0.1) for name, each in model.items()}
    with Averager(job, model, optimizers["critic"], RULE, name=next(names)):
        for number in range(4):
            for name, optimizer in optimizers.items():
                optimizer.zero_grad()
                model[name](batch(job, number)[:, :2]).square().sum().backward()
                optimizer.step()
        weights: dict[str, Tensor | None] = {name: each.detach() for name, each in model.named_parameters()}
        same(weights, weights)


def inside_shared_weights(job: Job) -> None:
    """One member may differentiate the shared weights alone."""
    model = Network()
    with averaged(job, model) as (averager, optimizer):
        if job.rank == 0:
            with averager.shared_weights():
                model(batch(job)).sum().backward()
            optimizer.zero_grad()
        local = copy.deepcopy(model)
        for each in (model, local):
            each(batch(job, 1)).square().sum().backward()
        same(gradients(model), mean(gradients(local), local))


def scaled(job: Job) -> None:
    """A gradient scaler skips the same steps in all members."""
    model = nn.Linear(2, 1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    with averaged(job, model) as (averager, optimizer):
        for number in range(3):
            optimizer.zero_grad()
            x = torch.full((2,), float("inf") if number == job.rank else 1.0 + job.rank)
            scaler.scale(model(x).sum()).backward()
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
        assert averager.statistics().steps == 1
        assert scaler.get_scale() == 1.0
        assert model.weight.grad is not None
        assert model.weight.grad.tolist() == [[1.5, 1.5]]


def unfrozen_by_one(job: Job) -> None:
    """What one member trains and does not share is refused in all of them."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    model[0].requires_grad_(False)
    with averaged(job, model):
        if job.rank == 1:
            model[0].requires_grad_()
        with pytest.raises(
            RuntimeError, match=(r"another member of the group cannot go on", r"0\.weight is")[job.rank]
        ):
            model(batch(job)).sum().backward()


def unfrozen_by_all(job: Job) -> None:
    """Frozen parameters that are shared take part once they are trained."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with Averager(job, model, optimizer, RULE, name=next(names), share_frozen=True):
        for number in range(2):
            local = copy.deepcopy(model)
            for each in (model, local):
                each.zero_grad()
                each(batch(job, number)).sum().backward()
            same(gradients(model), mean(gradients(local), local))
            model[0].requires_grad_()
        assert model.get_parameter("0.weight").grad is not None


def pushed(job: Job) -> None:
    """All members have the leader's weights afterwards, and so has the box, whatever was under way."""
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    rule = Hybrid(between=Elastic(moving_rate=0.5, interval=1))
    with Averager(job, model, optimizer, rule, name=next(names)) as averager:
        model(batch(job)).sum().backward()
        optimizer.step()
        model.load_state_dict({"weight": torch.full((1, 4), 8.0 + job.rank), "bias": torch.zeros(1)})
        with pytest.raises(RuntimeError, match=r"averager\.push"):
            optimizer.step()
        averager.push()
        assert model.weight.tolist() == [[8.0] * 4]
        with averager.shared_weights():
            assert model.weight.tolist() == [[8.0] * 4]
        averager.finish(None)
        assert model.weight.tolist() == [[8.0] * 4]


CASES = (
    clipped,
    unused,
    accumulated,
    checkpointed,
    checkpointed_by_inner_passes,
    compiled,
    kept_graphs,
    under_the_pass,
    broken_off,
    sparse,
    by_hand,
    beside_another_optimizer,
    inside_shared_weights,
    scaled,
    unfrozen_by_one,
    unfrozen_by_all,
    pushed,
)

with modum.connect() as worker, averaged(worker, nn.Linear(1, 1)):  # the others use its process group
    for case in CASES:
        case(worker)
        print(case.__name__, flush=True)
