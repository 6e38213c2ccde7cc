"""Whether this worker's launcher takes checkpoints, and with which one the job begins."""

import os
from pathlib import Path
from typing import Final

from modum.box import Box
from modum.checkpoints.worker import Checkpoints

__all__ = ["checkpoints_are_taken", "checkpoints_of_environment", "checkpoints_variable"]

_VARIABLE: Final = "MODUM_RESUME"
_NEW: Final = "new"


def checkpoints_variable(resumed: Path | None) -> dict[str, str]:
    """Return the variable that tells workers of checkpoints.

    Args:
        resumed: folder of the workers' states with which the job begins; None: it begins anew.

    Returns:
        Its name and value.
    """
    return {_VARIABLE: _NEW if resumed is None else str(resumed)}


def checkpoints_are_taken() -> bool:
    """Return whether this worker's launcher takes checkpoints: then it joins a job even where it is alone."""
    return bool(os.environ.get(_VARIABLE))


def checkpoints_of_environment(box: Box, rank: int) -> Checkpoints:
    """Return a worker's part in its job's checkpoints.

    Args:
        box: of the job.
        rank: of the worker.

    Returns:
        What takes them; without that variable, none are taken.
    """
    value = os.environ.get(_VARIABLE, "")
    return Checkpoints(box, rank, on=bool(value), resumed=Path(value) if value not in ("", _NEW) else None)
