"""Calculate what to expect of a job on a cluster: traffic, bottlenecks, interval, memory, efficiency."""

from typing import TYPE_CHECKING

from modum._lazy import attach
from modum.plan.cluster import Cluster, Place
from modum.plan.estimate import ALL_REDUCE, Estimate, estimate

if TYPE_CHECKING:
    from modum.plan.measure import measure_copy, measure_step
    from modum.plan.models import model_bytes

__all__ = ["ALL_REDUCE", "Cluster", "Estimate", "Place", "estimate", "measure_copy", "measure_step", "model_bytes"]

# arithmetic alone needs neither a memory server, which `measure_step` starts, nor what reads models' files
__getattr__, __dir__ = attach(
    __name__,
    {"modum.plan.measure": ("measure_copy", "measure_step"), "modum.plan.models": ("model_bytes",)},
)
