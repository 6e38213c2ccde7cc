"""What a pipeline reports about a step, and about itself."""

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
    """Number of the update, from 0."""
    samples: int
    """Samples in its batch."""
    loss: float
    """Mean over the batch, as the last stage computed it."""
    metrics: dict[str, float]
    """Means over the batch, by name."""
    progress: float
    """Fraction of the job, 0 to 1, that was handed out when the batch began, if its source knows; else nan."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineStatistics:
    """What a worker of a pipeline has done so far. Times are in seconds."""

    updates: int
    micro_batches: int
    compute_seconds: float
    """Time in the stage: forward, backward and update."""
    waited_seconds: float
    """Time waiting for activations, gradients and batches: the bubble of this stage."""
    sent_bytes: int
    versions: int
    """The most versions of the weights held at one time."""
    averaging: AveragingStatistics | None
    """Statistics of the exchange with the same stage of other pipelines; None with one pipeline."""
