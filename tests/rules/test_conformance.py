"""All rules under the suite that strangers use, and what the suite finds in broken ones."""

from dataclasses import dataclass
from typing import Any

import pytest

from modum.box import Box, Buffer
from modum.parameters import Vector
from modum.rules import RULES, Downpour, Elastic, Hybrid, Leg, Part, UpdateRule
from modum.testing import check_rule


@pytest.mark.parametrize("name", RULES)
def test_every_rule_conforms(name: str, box: Box) -> None:
    check_rule(RULES[name], box)


@pytest.mark.parametrize("name", RULES)
def test_a_hybrid_conforms_with_every_rule_between_its_groups(name: str, box: Box) -> None:
    def hybrid(**settings: Any) -> Hybrid:
        return Hybrid(between=RULES[name](**settings))

    check_rule(hybrid, box)


def test_settings_begin_with_the_name_under_which_the_rule_is_found() -> None:
    for name, rule in RULES.items():
        assert rule().settings()["rule"] == rule.name == name


@dataclass(frozen=True, kw_only=True)
class Understated(Elastic):
    def traffic(self, nbytes: int) -> tuple[Leg, ...]:
        return (Leg(nbytes, 0),)


@dataclass(frozen=True, kw_only=True)
class Silent(Elastic):
    def settings(self) -> dict[str, Any]:
        return {"rule": "silent"}


@dataclass(frozen=True, kw_only=True)
class Forgetful(Downpour):
    def memory(self, nbytes: int) -> int:
        return 0


class Lying(Part):
    def __init__(self, inner: Part, rate: float) -> None:
        super().__init__(inner.vector, inner.buffer)
        self.inner, self.rate = inner, rate

    def transfer(self, groups: int, steps: int) -> float:
        return self.inner.transfer(groups, steps) * self.rate


@dataclass(frozen=True, kw_only=True)
class Misreported(Elastic):
    def part(self, vector: Vector, buffer: Buffer) -> Part:
        return Lying(super().part(vector, buffer), 0.5)


@dataclass(frozen=True, kw_only=True)
class Rateless(Elastic):
    def part(self, vector: Vector, buffer: Buffer) -> Part:
        return Lying(super().part(vector, buffer), 0.0)


class Drifting(Lying):
    def transfer(self, groups: int, steps: int) -> float:
        rate = super().transfer(groups, steps)
        self.vector.staging[0] += 1
        return rate


@dataclass(frozen=True, kw_only=True)
class Moving(Elastic):
    def part(self, vector: Vector, buffer: Buffer) -> Part:
        return Drifting(super().part(vector, buffer), 1.0)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Understated, "traffic"),
        (Silent, "settings"),
        (Forgetful, r"memory\(\) says 0 bytes for 1048576 of weights, but \w+ takes 10\d\d\d\d\d"),
        (Misreported, "statistics are mixed with the rate"),
        (Rateless, "rate of 0"),
        (Moving, "learned nothing"),
    ],
)
def test_a_broken_rule_is_told_what_is_wrong(rule: type[UpdateRule], message: str, box: Box) -> None:
    with pytest.raises(AssertionError, match=message):
        check_rule(rule, box)
