"""Update rules: how local and shared parameters move together. Pure: no framework, no network."""

from modum.rules.downpour import Downpour
from modum.rules.elastic import Elastic
from modum.rules.hybrid import Hybrid
from modum.rules.rule import Auto, Part, UpdateRule

__all__ = ["Auto", "Downpour", "Elastic", "Hybrid", "Part", "UpdateRule"]
