"""Checkpoints that are loaded into a shared model: who wins, and how to say so."""

import copy
import io
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from modum.box import Box
from modum.rules import Downpour, Drift, Elastic, UpdateRule
from tests.support import Gated, until
from tests.torch.workplace import Make, sgd, train

Connect = Callable[[], Box]

EACH_STEP = Elastic(moving_rate=0.5, interval=1, overlap=False)


def checkpoint(value: float) -> dict[str, Any]:
    return {"weight": torch.full((1, 2), value), "bias": torch.full((1,), value)}


def still(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """A step that changes nothing."""
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()


def test_weights_that_are_loaded_after_joining_are_refused_until_it_is_said_what_becomes_of_them(
    box: Box, averager: Make
) -> None:
    model = nn.Linear(2, 1)
    optimizer = sgd(model)
    ours = averager(model, optimizer, box, EACH_STEP)
    start = copy.deepcopy(model.state_dict())
    model.load_state_dict(checkpoint(8))
    with pytest.raises(RuntimeError, match=r"weights were loaded .* averager\.push\(\) .* averager\.pull\(\)"):
        train(model, optimizer, torch.randn(4, 2))
    ours.pull()
    assert torch.equal(model.weight, start["weight"])
    model.load_state_dict(checkpoint(8))
    ours.push()
    still(model, optimizer)
    assert model.weight.tolist() == [[8.0, 8.0]]
    with ours.shared_weights():
        assert model.weight.tolist() == [[8.0, 8.0]]
    model.load_state_dict(checkpoint(9))
    with pytest.raises(RuntimeError, match="weights were loaded"):
        ours.finish(None)


def test_a_part_that_is_loaded_is_noticed_and_what_is_restored_is_not(box: Box, averager: Make) -> None:
    model = nn.Sequential(nn.Linear(2, 1))
    optimizer = sgd(model)
    ours = averager(model, optimizer, box, EACH_STEP)
    own = copy.deepcopy(model.state_dict())
    model[0].load_state_dict(checkpoint(8))  # to evaluate others for once
    model.load_state_dict(own)
    with ours.shared_weights():
        model[0].load_state_dict(checkpoint(8))
    still(model, optimizer)
    model[0].load_state_dict(checkpoint(8))
    with pytest.raises(RuntimeError, match="weights were loaded"):
        optimizer.step()


@pytest.mark.parametrize("rule", [EACH_STEP, Drift(interval=1), Downpour(interval=1)], ids=lambda rule: rule.name)
def test_pushed_weights_are_those_of_all_after_their_next_exchange(
    rule: UpdateRule, connect: Connect, averager: Make
) -> None:
    models = [nn.Linear(2, 1) for _ in range(2)]
    optimizers = [sgd(model) for model in models]
    first, second = (
        averager(model, optimizer, connect(), rule) for model, optimizer in zip(models, optimizers, strict=True)
    )
    train(models[1], optimizers[1], torch.randn(4, 2))
    models[0].load_state_dict(checkpoint(8))
    first.push()
    with second.shared_weights():
        assert models[1].weight.tolist() == [[8.0, 8.0]]
    assert models[1].weight.tolist() != [[8.0, 8.0]]
    still(models[1], optimizers[1])
    until(lambda: not second.worker.exchanging)
    second.finish(None)
    assert models[1].weight.tolist() == [[8.0, 8.0]]
    late = nn.Linear(2, 1)
    averager(late, sgd(late), connect(), rule)
    assert late.weight.tolist() == [[8.0, 8.0]]


def test_nothing_that_was_under_way_gets_into_pushed_weights(connect: Connect, averager: Make) -> None:
    rules = [Gated(moving_rate=0.5, interval=1) for _ in range(2)]
    models = [nn.Linear(2, 1) for _ in range(2)]
    optimizers = [sgd(model) for model in models]
    first, second = (
        averager(model, optimizer, connect(), rule)
        for model, optimizer, rule in zip(models, optimizers, rules, strict=True)
    )
    for model, optimizer in zip(models, optimizers, strict=True):
        train(model, optimizer, torch.randn(4, 2))  # exchanges that wait at the gate
    models[0].load_state_dict(checkpoint(8))
    rules[0].gate.release()
    first.push()  # its correction is dropped
    assert models[0].weight.tolist() == [[8.0, 8.0]]
    rules[1].gate.release()
    until(lambda: not second.worker.exchanging)
    rules[1].gate.release()
    still(models[1], optimizers[1])
    assert models[1].weight.tolist() == [[8.0, 8.0]]
    until(lambda: not second.worker.exchanging)
    with first.shared_weights():
        assert models[0].weight.tolist() == [[8.0, 8.0]]
    models[1].weight.grad = torch.full((1, 2), 10.0)
    rules[1].gate.release()
    optimizers[1].step()  # W: 8 - 1; G: 8 - 0.5
    until(lambda: not second.worker.exchanging)
    with first.shared_weights():
        assert models[0].weight.tolist() == [[7.5, 7.5]]


def test_a_worker_says_that_weights_of_the_box_took_the_place_of_its_own(
    connect: Connect, averager: Make, caplog: pytest.LogCaptureFixture
) -> None:
    models = [nn.Linear(2, 1) for _ in range(3)]
    models[2].load_state_dict(models[0].state_dict())
    for model in models:
        with caplog.at_level(logging.INFO, "modum"):
            averager(model, sgd(model), connect())
    taken = [message for message in caplog.messages if "take the place of this worker's own" in message]
    assert len(taken) == 1
    assert taken[0].startswith("the box has weights of 'model'")
    assert "averager.push()" in taken[0]
    assert torch.equal(models[1].weight, models[0].weight)


def test_copies_and_pickles_of_a_shared_model_have_nothing_of_it(box: Box, averager: Make) -> None:
    model = nn.Linear(2, 1)
    optimizer = sgd(model)
    averager(model, optimizer, box)
    file = io.BytesIO()
    torch.save(copy.deepcopy(model), file)
    torch.save(model, file)
    assert b"modum" not in file.getvalue()
    file.seek(0)
    read = torch.load(file, weights_only=False)
    read.load_state_dict(checkpoint(8))
    assert read.weight.tolist() == [[8.0, 8.0]]
    still(model, optimizer)
