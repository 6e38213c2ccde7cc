"""The front end for Keras 3, on its TensorFlow and its torch backend.

The names below are loaded when they are first used, and import the backend in use alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modum.keras.averaging import Averaging
    from modum.keras.stages import KerasStage, partition
    from modum.rules import Downpour, Elastic, Hybrid

__all__ = ["Averaging", "Downpour", "Elastic", "Hybrid", "KerasStage", "partition"]

_HOMES = {
    "modum.keras.averaging": ("Averaging",),
    "modum.keras.stages": ("KerasStage", "partition"),
    "modum.rules": ("Downpour", "Elastic", "Hybrid"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'modum.keras' has no attribute {name!r}")
