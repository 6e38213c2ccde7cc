"""A training loop with an Averager, worker by worker in one process."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from modum.box import Box
from modum.errors import DeadlineError, MismatchError, NotFiniteError
from modum.job import Job
from modum.observe.progress import read_progress
from modum.rules import Downpour, Elastic, Hybrid
from tests.support import elastic_reference, until
from tests.torch.workplace import Make, sgd, train

Connect = Callable[[], Box]


def shared(box: Box, name: str = "model/float32") -> np.ndarray:
    buffer = box.open(name)
    try:
        return buffer.read()
    finally:
        buffer.close()


def test_one_worker_with_interval_one_follows_a_hand_computation(box: Box, averager: Make) -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 4.0)
    optimizer = sgd(model, lr=0.5)
    averager(model, optimizer, box, Elastic(moving_rate=0.5, interval=1, overlap=False))
    model(torch.ones(1)).backward()  # the gradient is 1
    optimizer.step()  # W: 4 - 0.5 = 3.5; G = 4; d = -0.25
    assert model.weight.item() == 3.75
    assert shared(box)[0] == 3.75
    optimizer.step()  # W: 3.25; d = -0.25
    assert model.weight.item() == 3.5
    assert shared(box)[0] == 3.5


OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "sgd": lambda model: sgd(model, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adam": lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
    "adamw": lambda model: torch.optim.AdamW(model.parameters(), lr=0.01, fused=True),
    "rmsprop": lambda model: torch.optim.RMSprop(model.parameters(), lr=0.01),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_two_workers_in_turn_follow_the_equations_with_any_optimizer(
    kind: str, connect: Connect, averager: Make
) -> None:
    """Against plain models, trained alike, whose weights the NumPy reference moves."""

    def model_of(worker: int) -> nn.Sequential:
        torch.manual_seed(worker)
        return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2))

    rule = Elastic(moving_rate=0.3, interval=2, overlap=False)
    models, references = [model_of(0), model_of(1)], [model_of(0), model_of(0)]
    optimizers = [OPTIMIZERS[kind](model) for model in models]
    for model, optimizer in zip(models, optimizers, strict=True):
        averager(model, optimizer, connect(), rule)
    reference_optimizers = [OPTIMIZERS[kind](model) for model in references]
    center = [parameter.detach().numpy().copy() for parameter in model_of(0).parameters()]
    for step in range(6):
        for worker in range(2):
            batch = torch.randn(4, 5)
            train(models[worker], optimizers[worker], batch)
            train(references[worker], reference_optimizers[worker], batch)
            if step % 2:
                for parameter, G in zip(references[worker].parameters(), center, strict=True):
                    elastic_reference(parameter.detach().numpy(), G, 0.3)
            for ours, theirs in zip(models[worker].parameters(), references[worker].parameters(), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-6)


def test_an_optimizer_that_evaluates_the_loss_itself_works(box: Box, averager: Make) -> None:
    model = nn.Linear(3, 1)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5)
    averager(model, optimizer, box, Elastic(moving_rate=0.5, interval=1))
    x, y = torch.randn(20, 3), torch.randn(20, 1)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    first = optimizer.step(closure).item()  # type: ignore[no-untyped-call]
    for _ in range(5):
        last = optimizer.step(closure).item()  # type: ignore[no-untyped-call]
    assert last < first


def test_gradient_accumulation_is_one_step(box: Box, averager: Make) -> None:
    model = nn.Linear(3, 1)
    optimizer = sgd(model)
    ours = averager(model, optimizer, box, Elastic(moving_rate=0.5, interval=2))
    for micro_batch in range(12):
        model(torch.randn(4, 3)).sum().backward()
        if micro_batch % 4 == 3:
            optimizer.step()
            optimizer.zero_grad()
    assert ours.statistics().steps == 3


def test_autocast_and_a_disabled_gradient_scaler_change_nothing(box: Box, averager: Make) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
    optimizer = sgd(model)
    ours = averager(model, optimizer, box, Elastic(moving_rate=0.5, interval=1, overlap=False))
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    before = shared(box).copy()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(torch.randn(16, 8)).square().mean()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    assert ours.statistics().exchanges == 1
    assert not np.array_equal(shared(box), before)
    np.testing.assert_allclose(
        shared(box)[:64].reshape(8, 8), model.get_parameter("0.weight").detach().numpy(), atol=1e-6
    )


def test_bfloat16_weights_are_averaged_in_bfloat16(connect: Connect, averager: Make) -> None:
    rule = Elastic(moving_rate=0.5, interval=1, overlap=False)
    models = [nn.Linear(2, 2, bias=False).to(torch.bfloat16) for _ in range(2)]
    optimizers = [sgd(model, lr=1.0) for model in models]
    for model, optimizer in zip(models, optimizers, strict=True):
        averager(model, optimizer, connect(), rule)
    start = models[0].weight.detach().clone()
    assert torch.equal(models[1].weight, start)
    models[1].weight.grad = torch.full((2, 2), 2.0, dtype=torch.bfloat16)
    optimizers[1].step()  # W - 2, halfway back
    torch.testing.assert_close(models[1].weight, start - 1, rtol=0, atol=0.02)
    assert shared(connect(), "model/bfloat16").dtype == np.uint16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_with_downpour_the_updates_of_all_workers_add_up(dtype: torch.dtype, connect: Connect, averager: Make) -> None:
    """In numbers that both dtypes have exactly."""
    models = [nn.Linear(2, 1, bias=False).to(dtype) for _ in range(2)]
    rules = [Downpour(interval=2), Hybrid(between=Downpour(interval=2))]
    workers = []
    for model, rule in zip(models, rules, strict=True):
        nn.init.constant_(model.weight, 64.0)
        optimizer = sgd(model, lr=1.0)
        workers.append((model, optimizer, averager(model, optimizer, connect(), rule)))
    for step in range(5):
        for number, (model, optimizer, _) in enumerate(workers):
            model.weight.grad = torch.full_like(model.weight, number + step % 2)
            optimizer.step()
    for _, _, ours in workers:
        ours.finish(None)
    for model, _, ours in workers:
        ours.worker.pull()
        assert model.weight.tolist() == [[64.0 - 2 - (2 + 5)] * 2]


def test_the_statistics_of_a_batch_normalization_are_averaged(connect: Connect, averager: Make) -> None:
    rule = Elastic(moving_rate=0.5, interval=1, overlap=False)
    models = [nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)) for _ in range(2)]
    optimizers = [sgd(model) for model in models]
    for model, optimizer in zip(models, optimizers, strict=True):
        averager(model, optimizer, connect(), rule)
    train(models[0], optimizers[0], torch.randn(8, 2) + 5)
    variance = models[0].get_buffer("1.running_var").numpy()
    center = shared(connect())
    np.testing.assert_allclose(center[-16:-13], variance, rtol=1e-6)
    assert [model.get_buffer("1.num_batches_tracked").item() for model in models] == [1, 0]


def test_tied_parameters_stay_tied_through_exchanges(box: Box, averager: Make) -> None:
    embedding, output = nn.Embedding(6, 3), nn.Linear(3, 6, bias=False)
    output.weight = embedding.weight
    model = nn.Sequential(embedding, output)
    optimizer = sgd(model)
    averager(model, optimizer, box, Elastic(moving_rate=0.5, interval=1, overlap=False))
    train(model, optimizer, torch.arange(6))
    assert output.weight is embedding.weight
    np.testing.assert_allclose(shared(box)[:18].reshape(6, 3), embedding.weight.detach().numpy(), atol=1e-6)


def test_a_compiled_model_and_a_plain_one_train_the_same_weights(connect: Connect, averager: Make) -> None:
    plain, inner = nn.Linear(3, 1), nn.Linear(3, 1)
    compiled = torch.compile(inner, backend="eager")
    optimizer = sgd(inner)
    averager(plain, sgd(plain), connect())
    averager(compiled, optimizer, connect())
    assert torch.equal(plain.weight, inner.weight)
    train(compiled, optimizer, torch.randn(4, 3))  # type: ignore[arg-type]
    assert torch.equal(compiled(torch.ones(1, 3)), inner(torch.ones(1, 3)))


def test_the_scaled_learning_rate_lasts_for_the_step_and_schedulers_see_their_own(box: Box, averager: Make) -> None:
    model = nn.Linear(1, 1, bias=False)
    optimizer = sgd(model, lr=1.0)
    rule = Elastic(moving_rate=0.5, interval=1000)
    averager(model, optimizer, box, rule, learning_rate_scale=3.0, warmup_steps=2)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    model.weight.grad = torch.ones(1, 1)
    moved, seen = [], []
    for _ in range(4):
        before = model.weight.item()
        optimizer.step()
        scheduler.step()
        moved.append(before - model.weight.item())
        seen.append(optimizer.param_groups[0]["lr"])
    assert moved == pytest.approx([1.0, 2 * 0.5, 3 * 0.25, 3 * 0.125])
    assert seen == [0.5, 0.25, 0.125, 0.0625]


@pytest.mark.parametrize("scheduled", [False, True])
def test_a_step_that_raises_leaves_the_learning_rate_as_it_was(scheduled: bool, box: Box, averager: Make) -> None:
    model = nn.Linear(1, 1, bias=False)
    optimizer = sgd(model, lr=0.1)
    ours = averager(model, optimizer, box, Elastic(interval=1000), learning_rate_scale=2.0)
    if scheduled:
        torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    inside = []

    def fail() -> float:
        inside.append(optimizer.param_groups[0]["lr"])
        raise ZeroDivisionError

    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            optimizer.step(fail)
        assert optimizer.param_groups[0]["lr"] == 0.1
    assert inside == [0.2] * 3
    with ours.shared_weights(), pytest.raises(RuntimeError, match="leave the context first"):
        optimizer.step()
    assert optimizer.param_groups[0]["lr"] == 0.1
    ours.close()
    with pytest.raises(ZeroDivisionError):
        optimizer.step(fail)
    assert inside[3:] == [0.1]
    assert scheduled or "step" not in vars(optimizer)


def test_a_constructor_that_fails_leaves_no_group_and_no_hook(connect: Connect, averager: Make) -> None:
    class Unhooked(torch.optim.SGD):
        def register_step_post_hook(self, hook: Any) -> Any:
            raise ZeroDivisionError

    model, other = nn.Linear(2, 2), nn.Linear(2, 2)
    optimizer = Unhooked(model.parameters(), lr=0.1)
    with pytest.raises(ZeroDivisionError):
        averager(model, optimizer, connect(), learning_rate_scale=2.0)
    second = averager(other, sgd(other), connect(), learning_rate_scale=2.0)
    assert second.statistics().groups == 1
    second.finish(timeout=0)
    train(model, optimizer, torch.randn(4, 2))
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_shared_weights_are_there_inside_and_the_local_ones_after(connect: Connect, averager: Make) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    optimizer = sgd(model)
    ours = averager(model, optimizer, connect(), Elastic(moving_rate=0.5, interval=1000))
    center = shared(connect())
    train(model, optimizer, torch.randn(8, 3))
    local = [tensor.clone() for tensor in model.state_dict().values()]
    with ours.shared_weights():
        np.testing.assert_array_equal(model.get_parameter("0.weight").detach().numpy().ravel(), center[:9])
        with pytest.raises(RuntimeError, match="leave the context first"):
            optimizer.step()
        with pytest.raises(RuntimeError, match="entered already"), ours.shared_weights():
            pass
    assert all(torch.equal(before, after) for before, after in zip(local, model.state_dict().values(), strict=True))
    with pytest.raises(ZeroDivisionError), ours.shared_weights():
        raise ZeroDivisionError
    assert torch.equal(model.get_parameter("0.weight"), local[0])


def test_pulling_takes_the_shared_weights_for_good(connect: Connect, averager: Make) -> None:
    model = nn.Linear(3, 3)
    optimizer = sgd(model)
    ours = averager(model, optimizer, connect(), Elastic(moving_rate=0.5, interval=1))
    for _ in range(3):
        train(model, optimizer, torch.randn(8, 3))
    ours.worker.pull()
    np.testing.assert_array_equal(model.weight.detach().numpy().ravel(), shared(connect())[:9])


def test_finishing_waits_for_the_others_and_leaves_the_optimizer_alone(connect: Connect, averager: Make) -> None:
    models = [nn.Linear(2, 2) for _ in range(2)]
    optimizers = [sgd(model) for model in models]
    rule = Elastic(moving_rate=0.5, interval=1000)
    first, second = (
        averager(model, optimizer, connect(), rule) for model, optimizer in zip(models, optimizers, strict=True)
    )
    train(models[0], optimizers[0], torch.randn(8, 2))
    with pytest.raises(DeadlineError, match="1 other groups"):
        first.finish(timeout=0.1)
    np.testing.assert_allclose(models[0].weight.detach().numpy().ravel(), shared(connect())[:4], atol=1e-6)
    second.finish(timeout=0)
    steps = first.statistics().steps
    train(models[0], optimizers[0], torch.randn(8, 2))
    assert first.statistics().steps == steps


def test_a_model_of_another_shape_is_refused_with_both(connect: Connect, averager: Make) -> None:
    first, second = nn.Linear(3, 2), nn.Linear(4, 2)
    averager(first, sgd(first), connect())
    with pytest.raises(MismatchError, match=r"weight: shared float32 \(2, 3\), here float32 \(2, 4\)"):
        averager(second, sgd(second), connect())


def test_a_model_of_another_memory_order_is_refused(connect: Connect, averager: Make) -> None:
    first, second = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    averager(first, sgd(first), connect())
    with pytest.raises(MismatchError, match=r"shared float32 \(4, 3, 3, 3\), here .* strides \(27, 1, 9, 3\)"):
        averager(second, sgd(second), connect())


def test_other_settings_are_refused_with_both(connect: Connect, averager: Make) -> None:
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    averager(model, sgd(model), connect(), Elastic(interval=4), learning_rate_scale="sqrt")
    with pytest.raises(MismatchError) as refusal:
        averager(other, sgd(other), connect(), Elastic(interval=8, moving_rate=0.2), learning_rate_scale="sqrt")
    assert "moving_rate: shared auto, here 0.2" in str(refusal.value)
    assert "interval: shared 4, here 8" in str(refusal.value)


def test_two_names_are_two_models(box: Box, averager: Make) -> None:
    generator, critic = nn.Linear(3, 2), nn.Linear(5, 1)
    job = Job(box)
    averager(generator, sgd(generator), job, name="generator")
    averager(critic, sgd(critic), job, name="critic")
    assert {"generator/float32", "critic/float32"} <= {info.name for info in box.list()}


def test_an_optimizer_of_another_model_is_refused(box: Box, averager: Make) -> None:
    with pytest.raises(ValueError, match="was it made of another model"):
        averager(nn.Linear(2, 2), sgd(nn.Linear(2, 2)), box)


def test_a_rule_without_groups_in_a_job_of_groups_is_refused(box: Box, averager: Make) -> None:
    job = Job(box, world_size=4, group_size=2)
    model = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"groups of 2, but Elastic knows no groups: use Hybrid\(between="):
        averager(model, sgd(model), job, Elastic())


def test_samples_may_be_asked_for_once_an_epoch(box: Box, averager: Make) -> None:
    model = nn.Linear(3, 1)
    job = Job(box)
    ours = averager(model, sgd(model), job)
    for _ in range(2):
        assert sorted(np.concatenate(list(ours.indices(size=40, batch_size=10)))) == list(range(40))
    job.flush()
    progress = read_progress(box)
    assert progress is not None
    assert (progress.samples, progress.total) == (80, 80)


def test_progress_reaches_the_box(box: Box, averager: Make) -> None:
    model = nn.Linear(3, 1)
    optimizer = sgd(model)
    job = Job(box)
    ours = averager(model, optimizer, job, Elastic(moving_rate=0.5, interval=1))
    for batch in ours.indices(size=40, batch_size=10, epochs=2):
        train(model, optimizer, torch.randn(len(batch), 3))
        until(lambda: not ours.worker.exchanging)
        job.report(loss=0.25)
    ours.finish()
    progress = read_progress(box)
    assert progress is not None
    assert (progress.samples, progress.total, progress.steps, progress.loss) == (80, 80, 8, 0.25)
    done = ours.statistics()
    assert done.exchanges == 9  # one a step, and the last one
    assert progress.exchange_seconds == pytest.approx(done.exchange_seconds)
    assert progress.hidden_seconds == pytest.approx(done.hidden_seconds)


def test_a_step_that_spoils_the_weights_is_dropped_and_what_the_optimizer_remembers_is_mended(
    box: Box, averager: Make, caplog: pytest.LogCaptureFixture
) -> None:
    model = nn.Linear(3, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    sharing = averager(model, optimizer, box, Elastic(interval=1, overlap=False))
    train(model, optimizer, torch.ones(2, 3))
    train(model, optimizer, torch.full((2, 3), torch.nan))
    assert model.weight.isfinite().all()
    assert "weight has numbers that are not finite (NaN or infinity) after 2 local steps" in caplog.text
    train(model, optimizer, torch.ones(2, 3))

    assert model.weight.isfinite().all()
    assert np.isfinite(shared(box)).all()
    assert sharing.statistics().restored == 1


def test_spoiled_weights_may_end_the_worker(box: Box, averager: Make) -> None:
    model = nn.Linear(3, 1)
    optimizer = sgd(model)
    averager(model, optimizer, box, Elastic(interval=1, overlap=False), on_nonfinite="raise")
    with pytest.raises(NotFiniteError, match="weight has numbers"):
        train(model, optimizer, torch.full((2, 3), torch.inf))
    assert np.isfinite(shared(box)).all()
