"""Rules by name, for command lines and reports."""

from dataclasses import fields
from typing import Any, Final

import msgspec

from modum.rules.downpour import Downpour
from modum.rules.drift import Drift
from modum.rules.elastic import Elastic
from modum.rules.rule import UpdateRule

__all__ = ["RULES", "rule_from_text"]

RULES: Final[dict[str, type[UpdateRule]]] = {rule.name: rule for rule in (Elastic, Drift, Downpour)}
"""The asynchronous rules. Add your own rule here to plan and simulate it like them."""


def rule_from_text(text: str, **settings: Any) -> UpdateRule:
    """Return the rule named by a text such as "elastic" or "elastic:moving_rate=0.1,interval=4".

    Args:
        text: a name in `RULES`, and settings of that rule.
        **settings: more settings; the text takes precedence.

    Returns:
        The rule.

    Raises:
        ValueError: there is no such rule or setting, or the value is not allowed.
    """
    name, _, rest = text.partition(":")
    if name not in RULES:
        raise ValueError(f"rule ({name}) must be one of {', '.join(RULES)}")
    rule = RULES[name]
    known = [field.name for field in fields(rule)]  # type: ignore[arg-type]
    given: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        setting, equals, value = part.partition("=")
        if not equals or setting not in known:
            raise ValueError(f"{name} has no setting {part!r}: write NAME=VALUE with NAME of {', '.join(known)}")
        given[setting] = value
    try:
        return msgspec.convert({**settings, **given}, rule, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(f"rule ({text}): {error}") from None
