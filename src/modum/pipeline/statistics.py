"""What a pipeline tells of a step, and of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modum.averaging import AveragingStatistics

__all__ = ["PipelineStatistics", "Step"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One update of this stage; all stages see the same loss for the same number."""

    number: int
    """Of the update, from 0."""
    samples: int
    """Samples in its batch."""
    loss: float
    """Mean over the batch, as the last stage computed it."""
    metrics: dict[str, float]
    """Means over the batch."""
    progress: float
    """How much of the job had been handed out when the batch began, 0 to 1, if its source knows; else nan."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineStatistics:
    """What a worker of a pipeline has done so far. Times are in seconds."""

    updates: int
    micro_batches: int
    compute_seconds: float
    """In the stage: forward, backward and update."""
    waited_seconds: float
    """For activations, gradients and batches: the bubble of this stage."""
    sent_bytes: int
    versions: int
    """The most versions of the weights that were held at one time."""
    averaging: AveragingStatistics | None
    """Of the exchange with the same stage of other pipelines; None where there is one pipeline."""
