"""What is trained is shared, or refused by name: layers unfrozen, parameters added, optimizers made later."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from modum.box import Box
from modum.rules import Elastic
from modum.torch import Averager
from tests.torch.workplace import Make, sgd, train

Connect = Callable[[], Box]

EACH_STEP = Elastic(moving_rate=0.5, interval=1, overlap=False)


def half_frozen() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    return model


def test_a_layer_that_is_unfrozen_later_is_refused_by_name_before_it_has_moved(box: Box, averager: Make) -> None:
    model = half_frozen()
    optimizer = sgd(model)
    averager(model, optimizer, box)
    train(model, optimizer, torch.randn(4, 2))
    model[0].requires_grad_()
    before = model.get_parameter("0.weight").detach().clone()
    with pytest.raises(RuntimeError, match=r"0\.weight is trained but not shared, because it was frozen .*share_froz"):
        train(model, optimizer, torch.randn(4, 2))
    assert torch.equal(model.get_parameter("0.weight"), before)


def test_frozen_parameters_are_shared_on_demand_and_may_be_unfrozen(connect: Connect, averager: Make) -> None:
    models = [half_frozen() for _ in range(2)]
    optimizers = [sgd(model) for model in models]
    for model, optimizer in zip(models, optimizers, strict=True):
        averager(model, optimizer, connect(), EACH_STEP, share_frozen=True)
    assert torch.equal(models[0].get_parameter("0.weight"), models[1].get_parameter("0.weight"))
    start = models[0].get_parameter("0.weight").detach().clone()
    for model in models:
        model[0].requires_grad_()
    models[0].get_parameter("0.weight").grad = torch.full((2, 2), 40.0)
    optimizers[0].step()  # W: start - 4, halfway back; G: start - 2
    optimizers[1].step()  # halfway to G
    torch.testing.assert_close(models[1].get_parameter("0.weight").detach(), start - 1)


def test_parameters_that_an_optimizer_is_given_later_are_refused_by_name(box: Box, averager: Make) -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    optimizer = sgd(model)
    averager(model, optimizer, box)
    model.append(nn.Linear(2, 1))
    optimizer.add_param_group({"params": model[1].parameters()})
    with pytest.raises(RuntimeError, match=r"1\.weight is trained but not shared, because it was not in the model"):
        train(model, optimizer, torch.randn(4, 2))


def test_what_the_optimizer_trains_beside_the_model_is_refused(box: Box, averager: Make) -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD([*model.parameters(), nn.Parameter(torch.ones(3))], lr=0.1)
    with pytest.raises(ValueError, match=r"a parameter of shape \(3,\) that is not in the model.*nn\.ModuleList"):
        averager(model, optimizer, box)


def test_a_second_optimizer_counts_from_its_first_step_on(
    box: Box, averager: Make, caplog: pytest.LogCaptureFixture
) -> None:
    model = nn.Linear(2, 2)
    ours = averager(model, sgd(model), box, EACH_STEP)
    with caplog.at_level(logging.INFO, "modum"):
        second = torch.optim.Adam(model.parameters())
        for _ in range(2):
            train(model, second, torch.randn(4, 2))
    assert caplog.messages == ["a second optimizer (Adam) trains the shared model: its steps count as well"]
    assert (ours.statistics().steps, ours.statistics().exchanges) == (2, 2)
    stranger = nn.Linear(2, 2)
    train(stranger, sgd(stranger), torch.randn(4, 2))
    ours.close()
    train(model, second, torch.randn(4, 2))
    assert ours.statistics().steps == 2


def test_a_second_optimizer_of_a_scaled_rate_is_added_before_its_first_step(box: Box, averager: Make) -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    ours = averager(model, sgd(model), box, Elastic(interval=1000), learning_rate_scale=3.0)
    second = sgd(model)
    model.weight.grad = torch.ones(1, 1)
    with pytest.raises(RuntimeError, match=r"a second optimizer \(SGD\) .*averager\.add_optimizer\(optimizer\)"):
        second.step()
    ours.add_optimizer(second)
    second.step()
    assert model.weight.item() == pytest.approx(-0.3)
    assert second.param_groups[0]["lr"] == 0.1


def test_a_second_optimizer_of_what_is_not_shared_is_refused(box: Box, averager: Make) -> None:
    model = half_frozen()
    averager(model, sgd(model[1]), box)
    second = sgd(model[0])
    model[0].requires_grad_()
    with pytest.raises(RuntimeError, match=r"0\.weight is trained but not shared"):
        train(model, second, torch.randn(4, 2))


def test_an_optimizer_that_steps_another_one_counts_once(box: Box, averager: Make) -> None:
    class Twice(torch.optim.Optimizer):
        """Leaves its steps to another optimizer, which takes two."""

        def __init__(self, base: torch.optim.Optimizer) -> None:
            super().__init__(base.param_groups, {})
            self.base = base

        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            self.base.step()
            self.base.step()

    model = nn.Linear(2, 2)
    optimizer = Twice(sgd(model))
    ours: Averager = averager(model, optimizer, box)
    train(model, optimizer, torch.randn(4, 2))
    assert ours.statistics().steps == 1
    outer = Twice(optimizer)
    train(model, outer, torch.randn(4, 2))
    assert ours.statistics().steps == 3


def test_a_step_that_raised_hides_no_later_optimizer(box: Box, averager: Make) -> None:
    model = nn.Linear(2, 2)
    optimizer = sgd(model)
    ours: Averager = averager(model, optimizer, box)

    def fail() -> float:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        optimizer.step(fail)
    train(model, sgd(model), torch.randn(4, 2))
    assert ours.statistics().steps == 1


def test_a_second_averager_of_a_model_is_refused_until_the_first_is_closed(connect: Connect, averager: Make) -> None:
    model = nn.Linear(2, 2)
    first: Averager = averager(model, sgd(model), connect())
    with pytest.raises(ValueError, match=r"weight is shared already, by the averager of 'model'.*averager\.close\(\)"):
        averager(model, sgd(model), connect(), name="again")
    first.close()
    optimizer = sgd(model)
    second: Averager = averager(model, optimizer, connect(), name="again")
    train(model, optimizer, torch.randn(4, 2))
    assert (first.statistics().steps, second.statistics().steps) == (0, 1)
