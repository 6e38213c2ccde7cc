"""How the emulated cluster is scaled: bytes, speeds and times by factors that keep their ratio."""

from dataclasses import replace
from typing import Any

from bench.cluster.case import Case

MODEL, STEP, LINK = 100e6, 0.2, 7e9
"""The case of the original: bytes of ResNet-50's parameters, seconds of a step, bytes per second of a link."""

NBYTES, SECONDS = 32 << 20, 2.0
"""What stands for them here. Eight stripes of a box; a step of which two cores can compute eight (or sixteen)."""

INCEPTION = 16 << 20
"""Inception with batch normalization has 11.3 million parameters, 0.45 of ResNet-50's bytes; rounded up to stripes."""
INCEPTION_SECONDS = 4.0
"""Two cores also carry what sixteen workers average inside their groups: they get twice the time."""

ETHERNET = 125e6
"""Bytes per second of 1 Gbit/s."""


def rate(link: float = LINK, nbytes: float = NBYTES, step: float = SECONDS) -> float:
    """Bytes per second of an emulated link: as many steps per model transfer as ``link`` has in the original."""
    return link * (nbytes / MODEL) / (step / STEP)


def case(**options: Any) -> Case:
    """A case at the original's ratio, unless options say otherwise."""
    return replace(Case(nbytes=NBYTES, step_seconds=SECONDS, rate=rate()), **options)
