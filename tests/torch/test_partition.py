"""PyTorch models in stages: held against the unsplit model, and against the published equation with autograd."""

import gc
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from modum.box import Box
from modum.errors import StageError
from modum.pipeline import Mode, Pipeline
from modum.torch import TorchStage, partition
from tests.jobs import job_of
from tests.pipeline.support import run_workers, unless_raised

IMAGES = torch.randn(96, 1, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.randint(0, 5, (96,), generator=torch.Generator().manual_seed(2))
TOKENS = torch.randint(0, 11, (96, 7), generator=torch.Generator().manual_seed(3))
BATCHES = [np.arange(start, start + 12) % 96 for start in range(0, 240, 12)]
SEEDING = threading.Lock()
"""Random numbers are the process's, and the stages share it here."""


class Last(nn.Module):
    """The last output of a recurrent layer."""

    def forward(self, value: tuple[Tensor, Any]) -> Tensor:
        return value[0][:, -1]


class Double(nn.Module):
    """Passes on two tensors, one of them whole numbers."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x.argmax(1)


class Pick(nn.Module):
    """Uses both of them."""

    def forward(self, value: tuple[Tensor, Tensor]) -> Tensor:
        return value[0] + nn.functional.one_hot(value[1], value[0].shape[1])


def cnn() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        nn.Conv2d(4, 6, 3),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(24, 10),
        nn.Tanh(),
        Double(),
        Pick(),
        nn.Linear(10, 5),
    )


def rnn() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Embedding(11, 6),
        nn.LSTM(6, 8, batch_first=True),
        Last(),
        nn.BatchNorm1d(8),
        nn.Dropout(0.0),
        nn.Linear(8, 5),
    )


def momentum(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-3)


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=0.01)


class Run:
    """A model trained in stages, each in a thread; what came of it."""

    def __init__(
        self,
        connect: Callable[[], Box],
        build: Callable[[], nn.Sequential],
        at: Sequence[str],
        data: Tensor,
        optimizer: Callable[[Any], torch.optim.Optimizer] = momentum,
        batches: Sequence[Any] = BATCHES,
        *,
        mode: Mode = "asynchronous",
        micro_batches: int = 1,
    ) -> None:
        def worker(rank: int, box: Box) -> tuple[Any, Any, Any]:
            job = job_of(box, rank, len(at) + 1)
            with SEEDING:
                stage = partition(job, build, at=at)
            made = optimizer(stage.parameters()) if list(stage.parameters()) else None
            stage.prepare(made, nn.functional.cross_entropy, {"accuracy": accuracy})
            schedule = torch.optim.lr_scheduler.StepLR(made, 10, 0.5) if made else None
            with Pipeline(job, stage, mode=mode, micro_batches=micro_batches, timeout=20) as pipeline:
                steps = []
                for step in pipeline.train(batches, inputs=lambda i: data[i], labels=lambda i: LABELS[i]):
                    steps.append(step)
                    if schedule is not None:
                        schedule.step()
                end = pipeline.evaluate([np.arange(96)], inputs=lambda i: data[i], labels=lambda i: LABELS[i])
                return steps, end, pipeline.model()

        ranks = range(len(at) + 1)
        outcomes = unless_raised(run_workers(worker, ranks, [connect() for _ in ranks]))
        self.losses = [step.loss for step in outcomes[0][0]]
        self.accuracies = [step.metrics["accuracy"] for step in outcomes[0][0]]
        self.end = outcomes[0][1]
        self.state: dict[str, Tensor] = outcomes[0][2]
        assert all(outcome[1] == self.end for outcome in outcomes)
        assert [outcome[2] for outcome in outcomes[1:]] == [None] * len(at)
        assert all([step.loss for step in outcome[0]] == self.losses for outcome in outcomes)


def accuracy(outputs: Tensor, labels: Tensor) -> float:
    return (outputs.argmax(1) == labels).float().mean().item()


def unsplit(
    build: Callable[[], nn.Sequential],
    data: Tensor,
    delays: dict[str, int] | None = None,
    optimizer: Callable[[Any], torch.optim.Optimizer] = momentum,
    batches: Sequence[Any] = BATCHES,
) -> tuple[list[float], nn.Sequential]:
    """The unsplit model; with ``delays``, each parameter's gradient at weights so many updates old (PipeDream, 3.3)."""
    model = build()
    made = optimizer(model.parameters())
    schedule = torch.optim.lr_scheduler.StepLR(made, 10, 0.5)
    losses = []
    history: list[dict[str, Tensor]] = []
    for batch in batches:
        history.append({name: p.detach().clone() for name, p in model.named_parameters()})
        old = {
            name: history[max(0, len(history) - 1 - (delays or {}).get(name.split(".")[0], 0))][name].requires_grad_()
            for name, _ in model.named_parameters()
        }
        loss = nn.functional.cross_entropy(_by_layers(model, old, data[batch]), LABELS[batch])
        for (_, parameter), gradient in zip(
            model.named_parameters(), torch.autograd.grad(loss, list(old.values())), strict=True
        ):
            parameter.grad = gradient
        made.step()
        schedule.step()
        losses.append(loss.item())
    return losses, model


def _by_layers(model: nn.Sequential, weights: dict[str, Tensor], x: Any) -> Any:
    for name, layer in model.named_children():
        own = {key.split(".", 1)[1]: value for key, value in weights.items() if key.split(".")[0] == name}
        x = functional_call(layer, own, (x,)) if own else layer(x)
    return x


def assert_same(state: dict[str, Tensor], model: nn.Module, atol: float = 2e-6) -> None:
    expected = model.state_dict()
    assert list(state) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(state[name], value, rtol=0, atol=atol, msg=name)


@pytest.mark.parametrize("micro_batches", [1, 4])
def test_synchronous_stages_equal_the_unsplit_model_for_20_steps(
    micro_batches: int, connect: Callable[[], Box]
) -> None:
    run = Run(connect, cnn, ["0.2", "3", "7"], IMAGES, mode="synchronous", micro_batches=micro_batches)
    losses, model = unsplit(cnn, IMAGES)
    np.testing.assert_allclose(run.losses, losses, rtol=1e-5)
    assert_same(run.state, model)
    outputs = model.eval()(IMAGES)
    assert run.end["loss"] == pytest.approx(nn.functional.cross_entropy(outputs, LABELS).item(), rel=1e-5)
    assert run.end["accuracy"] == pytest.approx(accuracy(outputs, LABELS))
    assert max(run.accuracies) <= 1


@pytest.mark.parametrize("optimizer", [momentum, adam])
def test_asynchronous_stages_follow_the_published_equation(
    optimizer: Callable[[Any], torch.optim.Optimizer], connect: Callable[[], Box]
) -> None:
    run = Run(connect, cnn, ["1", "4", "6"], IMAGES, optimizer)
    losses, model = unsplit(cnn, IMAGES, {"0": 3, "1": 2, "4": 1}, optimizer)
    np.testing.assert_allclose(run.losses, losses, rtol=1e-4)
    assert_same(run.state, model, atol=1e-5)


def test_recurrent_layers_and_statistics_work_in_stages(connect: Callable[[], Box]) -> None:
    """The cut behind the LSTM hands over a tuple of tuples; statistics move once a batch."""
    run = Run(connect, rnn, ["2", "4"], TOKENS)
    losses, model = unsplit(rnn, TOKENS, {"0": 2, "1": 2, "3": 1})
    np.testing.assert_allclose(run.losses, losses, rtol=1e-4)
    assert_same(run.state, model, atol=1e-5)
    assert run.state["3.num_batches_tracked"] == len(BATCHES)


def test_bfloat16_crosses_a_cut_as_it_is(connect: Callable[[], Box]) -> None:
    def build() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 5)).bfloat16()

    data = IMAGES[:, 0, 0].bfloat16()
    run = Run(connect, build, ["1"], data, mode="synchronous", batches=BATCHES[:5])
    losses, model = unsplit(build, data, batches=BATCHES[:5])
    np.testing.assert_allclose(run.losses, losses, rtol=1e-6)
    assert run.state["0.weight"].tolist() == model.state_dict()["0.weight"].view(torch.int16).tolist()


@pytest.fixture
def few_parameters() -> Callable[[], int]:
    """Counts the elements of all parameters that are alive now beyond those that were before."""
    gc.collect()
    before = {id(thing) for thing in gc.get_objects() if type(thing) is nn.Parameter}

    def count() -> int:
        gc.collect()
        found = [thing for thing in gc.get_objects() if type(thing) is nn.Parameter and id(thing) not in before]
        return sum(parameter.numel() for parameter in found)

    return count


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_worker_holds_its_own_parameters_only(device: str, few_parameters: Callable[[], int], box: Box) -> None:
    def build() -> nn.Sequential:
        with torch.device(device):
            return nn.Sequential(nn.Linear(8, 100), nn.ReLU(), nn.Linear(100, 30), nn.Linear(30, 5))

    stage = partition(job_of(box, 1, 2), build, at=["3"])
    assert few_parameters() == 30 * 5 + 5 == sum(parameter.numel() for parameter in stage.parameters())
    assert not any(parameter.is_meta or parameter.abs().max() > 1 for parameter in stage.parameters())
    assert [name for name, _ in stage.named_parameters()] == ["3.weight", "3.bias"]


def test_layers_are_shared_out_by_the_time_they_take_and_the_model_stays(box: Box) -> None:
    model = cnn()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    stage = partition(job_of(box, 0, 3), model, sample=IMAGES[:16])
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(5)))
    assert stage.layers[0] == "0.0"
    assert 1 <= len(stage.layers) <= 9
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def prepared(stage: TorchStage) -> None:
    stage.prepare(None, nn.functional.cross_entropy)


@pytest.mark.parametrize(
    ("act", "kind", "message"),
    [
        (lambda job: partition(job, nn.Linear(2, 2)), TypeError, r"a Linear, and only an nn.Sequential .* can be cut"),
        (lambda job: partition(job, cnn, stages=2), ValueError, "give it sample=.* or at="),
        (lambda job: partition(job, cnn, at=["conv"]), ValueError, "none of the 11 layers is called 'conv'"),
        (lambda job: partition(job, [nn.ReLU()], sample=1), ValueError, r"stages \(2\) must be at most 1"),
        (lambda job: partition(job, nn.Sequential(), at=["1"]), ValueError, "no layers"),
        (lambda job: prepared(partition(job, cnn, at=["1"])), ValueError, "optimizer holds none of its parameters"),
    ],
)
def test_wrong_input_is_refused(act: Callable[[Any], Any], kind: type[Exception], message: str, box: Box) -> None:
    with pytest.raises(kind, match=message):
        act(job_of(box, 0, 2))


def test_no_cut_lies_between_two_uses_of_a_parameter(box: Box) -> None:
    shared = nn.Linear(4, 4)
    model = nn.Sequential(nn.Linear(4, 4), shared, nn.ReLU(), shared, nn.Tanh())
    with pytest.raises(ValueError, match="no cut can lie before '2': 1 and 3 share a parameter"):
        partition(job_of(box, 0, 2), model, at=["2"])
    assert partition(job_of(box, 0, 2), model, at=["1"]).layers == ("0",)


def test_a_layer_on_meta_must_make_its_own_values(box: Box) -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.ones(3))

    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Tanh(), Scale()))
    with pytest.raises(ValueError, match=r"1\.1 \(Scale\) is on the meta device and has no reset_parameters"):
        partition(job_of(box, 1, 2), model, at=["1.0"])


def test_what_cannot_cross_a_cut_is_named(connect: Callable[[], Box]) -> None:
    class Named(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"x": x}

    def worker(rank: int, box: Box) -> None:
        job = job_of(box, rank, 2)
        stage = partition(job, [nn.Linear(8, 5), Named(), nn.Identity()], at=["2"])
        stage.prepare(momentum(stage.parameters()) if rank == 0 else None, nn.functional.cross_entropy)
        with Pipeline(job, stage, timeout=20) as pipeline:
            list(pipeline.train(BATCHES, inputs=lambda i: IMAGES[i, 0, 0], labels=lambda i: LABELS[i]))

    first, second = run_workers(worker, range(2), [connect(), connect()])
    assert isinstance(first, TypeError)
    assert "behind layer '1' lies a cut, and it returned a dict" in str(first)
    assert isinstance(second, StageError)
