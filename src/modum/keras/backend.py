"""The seam between the front end and the framework that Keras computes with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

import keras

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from modum.box import Box
    from modum.groups import Group
    from modum.keras.variables import ModelVariable
    from modum.parameters import Vector
    from modum.rules import UpdateRule
    from modum.samples import Prefetch

_HOMES = {
    "tensorflow": ("modum.keras.on_tensorflow", "OnTensorFlow"),
    "torch": ("modum.keras.on_torch", "OnTorch"),
}


class Backend(ABC):
    """What differs between Keras' backends. ``group`` is always one that this object has made."""

    name: ClassVar[str]

    @abstractmethod
    def group(self, rule: UpdateRule, box: Box) -> Group:
        """The group that the rule names, else the one that the job was launched with."""

    @abstractmethod
    def vectors(self, variables: Sequence[ModelVariable], group: Group) -> tuple[list[Vector], list[list[str]]]:
        """The variables as flat vectors, and the name and text of each: what must be alike in all workers."""

    @abstractmethod
    def data(self, feed: Prefetch, load: Callable[[Any], tuple[Any, ...]]) -> Any:
        """What ``fit`` takes as ``x``: ``load`` of one batch of indices of the feed after another."""

    @abstractmethod
    def averaged(self, apply: Callable[..., Any], group: Group, purpose: str) -> Callable[..., Any]:
        """An optimizer's ``apply`` that gets the group's mean gradients."""


def backend() -> Backend:
    """That of the Keras backend in use; no other framework is imported.

    Raises:
        RuntimeError: it is one on which Modum cannot train.
    """
    name = keras.backend.backend()
    if name not in _HOMES:
        raise RuntimeError(
            f"modum.keras works on the backends {' and '.join(_HOMES)}, not on {name}, whose fit keeps the weights to "
            "itself while it trains\nHINT: set KERAS_BACKEND=tensorflow (or torch) before keras is imported"
        )
    home, kind = _HOMES[name]
    made: Backend = getattr(import_module(home), kind)()
    return made
