"""An averager's state is taken, saved by hand, and loaded into another one, which goes on as the first would have."""

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from modum.box import Box
from modum.rules import Downpour, Drift, Elastic, UpdateRule
from modum.torch import Averager
from tests.torch.workplace import Make, sgd, train

Connect = Callable[[], Box]


def net(width: int = 3) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Linear(width, 2))


def saved(state: dict[str, Any]) -> dict[str, Any]:
    """What is read of a file to which the state was written."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


RULES: dict[str, UpdateRule] = {
    "elastic": Elastic(moving_rate=0.3, interval=3),
    "drift": Drift(moving_rate=0.3, interval=3, horizon=4),
    "downpour": Downpour(interval=3),
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_worker_goes_on_from_a_saved_state_to_the_bit(rule: UpdateRule, connect: Connect, averager: Make) -> None:
    """The same steps follow in the worker itself and in one that has loaded its state, from the same shared weights."""
    box = connect()
    batches = [torch.randn(5, 4) for _ in range(20)]

    def worker(name: str) -> tuple[nn.Module, torch.optim.Optimizer, Averager]:
        model = net()
        optimizer = sgd(model, momentum=0.9)
        options = {"name": name, "learning_rate_scale": 3.0, "warmup_steps": 15}
        return model, optimizer, averager(model, optimizer, connect(), rule, **options)

    model, optimizer, ours = worker("a")
    for batch in batches[:10]:
        train(model, optimizer, batch)
    state, momentum = saved(ours.state_dict()), saved(optimizer.state_dict())
    shared = box.open("a/float32").read()

    def rest(model: nn.Module, optimizer: torch.optim.Optimizer, ours: Averager) -> list[torch.Tensor]:
        for batch in batches[10:]:
            train(model, optimizer, batch)
            ours.state_dict()  # exchanges are over before the next step, so that both do the same
        return [each.clone() for each in model.state_dict().values()]

    undisturbed = rest(model, optimizer, ours)
    model, optimizer, other = worker("b")
    box.open("b/float32").write(shared)
    other.load_state_dict(state)
    optimizer.load_state_dict(momentum)
    assert other.statistics().steps == 10
    assert other.statistics().learning_rate_factor == 1 + 2 * 10 / 15
    for one, two in zip(undisturbed, rest(model, optimizer, other), strict=True):
        assert torch.equal(one, two)
    assert other.statistics().steps == 20


def test_a_state_that_does_not_fit_is_refused_and_nothing_is_changed(connect: Connect, averager: Make) -> None:
    models = [net(), net(5), nn.Sequential(*list(net())[:2])]
    rules: list[UpdateRule] = [Elastic(interval=3), Elastic(interval=3), Elastic(interval=3), Drift(interval=3)]
    models.append(net())
    ours, wider, shorter, drifting = (
        averager(model, sgd(model), connect(), rule, name=str(number))
        for number, (model, rule) in enumerate(zip(models, rules, strict=True))
    )
    before = [each.clone() for each in models[0].state_dict().values()]
    wrong = r"6 there, 6 here.*0\.weight is float32 \(5, 4\) there and float32 \(3, 4\) here"
    for state, problem in (
        (wider.state_dict(), wrong.replace("6 there", "8 weights there").replace("6 here", "8 here")),
        (shorter.state_dict(), r"6 weights there, 8 here: 2\.weight is missing there and float32 \(2, 3\) here"),
        (drifting.state_dict(), r"a worker with rule 'drift', and this one has rule 'elastic'"),
        ({"state": {}, "param_groups": []}, r"no state of an averager of format 1: it has state, param_groups"),
    ):
        with pytest.raises(ValueError, match=problem):
            ours.load_state_dict(state)
    for one, two in zip(before, models[0].state_dict().values(), strict=True):
        assert torch.equal(one, two)


def test_no_state_is_taken_while_the_model_has_the_shared_weights(box: Box, averager: Make) -> None:
    model = net()
    ours = averager(model, sgd(model), box)
    with ours.shared_weights(), pytest.raises(RuntimeError, match="leave the context first"):
        ours.state_dict()
