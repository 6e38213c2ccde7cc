"""Modum: many machines train one model together through a soft memory box.

The names below are loaded when they are first used, so that `import modum` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from modum.errors import ModumError

if TYPE_CHECKING:
    from modum.box import Box, Server
    from modum.launch import Job, connect
    from modum.update import Downpour, Elastic, Hybrid, SharedSamples

__all__ = ["Box", "Downpour", "Elastic", "Hybrid", "Job", "ModumError", "Server", "SharedSamples", "connect"]

_HOMES = {
    "modum.box": ("Box", "Server"),
    "modum.launch": ("Job", "connect"),
    "modum.update": ("Downpour", "Elastic", "Hybrid", "SharedSamples"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'modum' has no attribute {name!r}")
