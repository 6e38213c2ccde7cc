"""Modum: many machines train one model together through a soft memory box.

The names below, and the front ends (`modum.torch`, `modum.keras`, ...), are loaded when they are first used, so that
`import modum` costs nothing.
"""

from typing import TYPE_CHECKING

from modum._lazy import attach
from modum.errors import ModumError

if TYPE_CHECKING:
    from modum.box import Box, Server
    from modum.job import Job, connect
    from modum.pipeline import Pipeline
    from modum.rules import Downpour, Drift, Elastic, Hybrid
    from modum.samples import SharedSamples

__all__ = [
    "Box",
    "Downpour",
    "Drift",
    "Elastic",
    "Hybrid",
    "Job",
    "ModumError",
    "Pipeline",
    "Server",
    "SharedSamples",
    "connect",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "modum.box": ("Box", "Server"),
        "modum.job": ("Job", "connect"),
        "modum.pipeline": ("Pipeline",),
        "modum.rules": ("Downpour", "Drift", "Elastic", "Hybrid"),
        "modum.samples": ("SharedSamples",),
    },
    subpackages=(
        "averaging",
        "box",
        "caffe",
        "cluster",
        "data",
        "groups",
        "keras",
        "parameters",
        "pipeline",
        "plan",
        "rules",
        "samples",
        "simulate",
        "tensorflow",
        "testing",
        "torch",
    ),
)
