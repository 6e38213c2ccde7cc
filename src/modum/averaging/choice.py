"""Choose an update rule, and a factor on the learning rate, by what the workers' optimizer does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from modum.averaging.scaling import LearningRateScale
from modum.rules import Hybrid, UpdateRule, rule_from_text

if TYPE_CHECKING:
    from modum.rules import Auto

__all__ = ["Choice", "OptimizerKind", "Scale", "choose"]

Scale = Literal["auto", "linear", "sqrt"] | float | None
"""What front ends take as the factor on the learning rate."""
SLUGGISH = 0.95
"""Momentum above which a drift comes too late: its answer takes more steps than many a run has to spare."""
WARMUP = 100
"""Local steps over which a chosen factor on the learning rate grows from 1 to its value."""
_NORMALIZED = (
    *(
        "adam",
        "adamw",
        "adamax",
        "nadam",
        "radam",
        "sparseadam",
        "adadelta",
        "adagrad",
        "adafactor",
        "rmsprop",
        "rprop",
    ),
    *("lamb", "lion", "muon"),
)
_PLAIN = frozenset(("sgd", "asgd", "nesterov"))


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerKind:
    """What a choice depends on.

    Attributes:
        name: of the optimizer, for the line that says what was chosen.
        steps: how its steps depend on the gradients: "plain" (in proportion, as SGD's), "normalized" (of a size of
            their own, as Adam's), or "unknown".
        momentum: of plain steps.
    """

    name: str
    steps: Literal["plain", "normalized", "unknown"] = "unknown"
    momentum: float = 0.0

    @classmethod
    def named(cls, name: str, momentum: float = 0.0) -> OptimizerKind:
        """Return what is known of an optimizer by the name of its class, in any case."""
        known = name.lower()
        if known in _PLAIN:
            return cls(name=name, steps="plain", momentum=momentum)
        return cls(name=name, steps="normalized" if known in _NORMALIZED else "unknown", momentum=momentum)

    @classmethod
    def of(cls, optimizer: Any) -> OptimizerKind:
        """Return what is known of an optimizer of PyTorch or Keras.

        It is known by its class, by one that it inherits from, or by the settings that it has; one that only scales the
        loss, by the optimizer in it.
        """
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        settings = getattr(inner, "param_groups", None) or [{"momentum": getattr(inner, "momentum", 0.0)}]
        momentum = max(float(each.get("momentum") or 0.0) for each in settings)
        name = type(inner).__name__
        for base in type(inner).__mro__:
            found = cls.named(base.__name__, momentum)
            if found.steps != "unknown":
                return replace(found, name=name)
        return cls(name=name, steps="normalized" if all("betas" in each for each in settings) else "unknown")


class Choice(NamedTuple):
    """What workers use.

    Attributes:
        rule: how the weights move together.
        scale: of the learning rate.
    """

    rule: UpdateRule
    scale: LearningRateScale


def choose(
    optimizer: OptimizerKind,
    rule: UpdateRule | str | None = "auto",
    scale: Scale = "auto",
    warmup_steps: int | Auto = "auto",
) -> Choice:
    """Choose what a user has left open.

    Where steps are in proportion to the gradients, `Drift` makes p groups advance as with the learning rate that a
    batch p times as large calls for, and the rate is left alone. Steps of a size of their own are mostly noise with
    small batches: to average p of them takes the noise down by sqrt(p), and what a batch p times as large calls for
    (sqrt(p): Malladi, Lyu, Panigrahi, Arora 2022, "On the SDEs and scaling rules for adaptive gradient algorithms")
    comes on top of it: the rate times p, with `Elastic`. docs/rules.md has the measurements.

    Args:
        optimizer: of the workers.
        rule: "auto": chosen; more settings may follow, as in "auto:interval=4". Another rule by name, as
            `rule_from_text` takes it, or a rule. None: "auto".
        scale: factor on the learning rate, see `LearningRateScale`; "auto": chosen with the rule, and 1 with a rule of
            the user's own.
        warmup_steps: local steps over which the factor grows; "auto": 100 for a chosen factor, else 0.

    Returns:
        Rule and scale.

    Raises:
        ValueError: the scale or the steps are out of their range, or there is no such rule or setting.
    """
    chosen: Literal["linear"] | None = None
    if rule is None or isinstance(rule, str):
        name, _, settings = (rule or "auto").partition(":")
        own: dict[str, Any] = {}
        if name == "auto":
            name = "elastic"
            if optimizer.steps == "plain" and optimizer.momentum <= SLUGGISH:
                name, own = "drift", {"momentum": optimizer.momentum}
            chosen = "linear" if optimizer.steps == "normalized" else None
        rule = Hybrid(between=rule_from_text(f"{name}:{settings}", **own))
    if scale != "auto":
        steps = 0 if warmup_steps == "auto" else warmup_steps
        return Choice(rule, LearningRateScale(scale=scale, warmup_steps=steps))
    steps = WARMUP if warmup_steps == "auto" else warmup_steps
    return Choice(rule, LearningRateScale(scale=chosen, warmup_steps=steps))
