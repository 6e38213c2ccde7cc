"""What is chosen for an optimizer, and what is left as the user gave it."""

from types import SimpleNamespace

import pytest
import torch

from modum.averaging import LearningRateScale, OptimizerKind, choose
from modum.rules import Downpour, Drift, Elastic, Hybrid

WEIGHTS = [torch.nn.Parameter(torch.zeros(1))]


class _Own(torch.optim.Optimizer):
    """An optimizer that nobody knows."""

    def __init__(self, **settings: object) -> None:
        super().__init__(WEIGHTS, settings)


class _Derived(torch.optim.SGD):
    """One that inherits from a known one."""


@pytest.mark.parametrize(
    ("optimizer", "steps", "momentum"),
    [
        (torch.optim.SGD(WEIGHTS, lr=1.0), "plain", 0.0),
        (torch.optim.SGD([{"params": WEIGHTS, "momentum": 0.8}], lr=1.0), "plain", 0.8),
        (_Derived(WEIGHTS, lr=1.0, momentum=0.9), "plain", 0.9),
        (torch.optim.AdamW(WEIGHTS), "normalized", 0.0),
        (torch.optim.RMSprop(WEIGHTS, momentum=0.9), "normalized", 0.9),
        (_Own(lr=1.0, betas=(0.9, 0.99)), "normalized", 0.0),
        (_Own(lr=1.0), "unknown", 0.0),
        (SimpleNamespace(inner_optimizer=torch.optim.SGD(WEIGHTS, lr=1.0, momentum=0.5)), "plain", 0.5),
        (None, "unknown", 0.0),
    ],
)
def test_an_optimizer_is_known_by_its_class_or_its_settings(optimizer: object, steps: str, momentum: float) -> None:
    kind = OptimizerKind.of(optimizer)
    assert (kind.steps, kind.momentum) == (steps, momentum)


def test_keras_optimizers_are_known() -> None:
    assert OptimizerKind.of(SimpleNamespace(momentum=0.9)).steps == "unknown"
    assert OptimizerKind.named("SGD", 0.9) == OptimizerKind(name="SGD", steps="plain", momentum=0.9)
    assert OptimizerKind.named("Adam").steps == "normalized"


def test_plain_steps_get_the_drift_and_keep_their_rate() -> None:
    rule, scale = choose(OptimizerKind(name="SGD", steps="plain", momentum=0.8))
    assert rule == Hybrid(between=Drift(momentum=0.8))
    assert scale == LearningRateScale(warmup_steps=100)
    assert scale.factor(1000, 8) == 1


def test_too_much_momentum_for_a_drift_gets_none() -> None:
    rule, _ = choose(OptimizerKind(name="SGD", steps="plain", momentum=0.99))
    assert rule == Hybrid(between=Elastic())


def test_normalized_steps_get_a_rate_for_each_group() -> None:
    rule, scale = choose(OptimizerKind(name="AdamW", steps="normalized"))
    assert rule == Hybrid(between=Elastic())
    assert (scale.factor(0, 8), scale.factor(50, 8), scale.factor(100, 8)) == (1, 4.5, 8)


def test_an_unknown_optimizer_keeps_its_rate() -> None:
    rule, scale = choose(OptimizerKind(name="Own"))
    assert rule == Hybrid(between=Elastic())
    assert scale.factor(1000, 8) == 1


def test_what_is_given_is_taken() -> None:
    adam = OptimizerKind(name="AdamW", steps="normalized")
    assert choose(adam, Downpour()) == (Downpour(), LearningRateScale(warmup_steps=100))
    assert choose(adam, scale=None).scale == LearningRateScale()
    assert choose(adam, scale="sqrt", warmup_steps=7).scale == LearningRateScale(scale="sqrt", warmup_steps=7)
    assert choose(adam, warmup_steps=7).scale == LearningRateScale(scale="linear", warmup_steps=7)


def test_a_choice_takes_settings_and_a_rule_has_a_name() -> None:
    sgd = OptimizerKind(name="SGD", steps="plain", momentum=0.5)
    assert choose(sgd, "auto:interval=4,overlap=false").rule == Hybrid(
        between=Drift(momentum=0.5, interval=4, overlap=False)
    )
    assert choose(sgd, "elastic:moving_rate=0.1") == (
        Hybrid(between=Elastic(moving_rate=0.1)),
        LearningRateScale(warmup_steps=100),
    )
    with pytest.raises(ValueError, match=r"rule \(best\) must be one of"):
        choose(sgd, "best")
    with pytest.raises(ValueError, match="elastic has no setting 'speed=1'"):
        choose(OptimizerKind(name="Adam", steps="normalized"), "auto:speed=1")
