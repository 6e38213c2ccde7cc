"""What to expect of a job on a given cluster, by arithmetic: traffic, bottlenecks, interval, memory, efficiency."""

from modum.plan.cluster import Cluster, Place
from modum.plan.estimate import Estimate, estimate
from modum.plan.measure import measure_copy, measure_step
from modum.plan.models import model_bytes

__all__ = [
    "Cluster",
    "Estimate",
    "Place",
    "estimate",
    "measure_copy",
    "measure_step",
    "model_bytes",
]
