"""Update rules: how local and shared weights move together. Pure: no framework, no network."""

from modum.rules.downpour import Downpour
from modum.rules.drift import Drift
from modum.rules.elastic import Elastic
from modum.rules.hybrid import Hybrid
from modum.rules.registry import RULES, rule_from_text
from modum.rules.rule import Auto, Leg, Part, UpdateRule, check_interval

__all__ = [
    "RULES",
    "Auto",
    "Downpour",
    "Drift",
    "Elastic",
    "Hybrid",
    "Leg",
    "Part",
    "UpdateRule",
    "check_interval",
    "rule_from_text",
]
