"""Find a process's place in the job that a launcher started."""

from modum.cluster.detection import ENVIRONMENTS, detect
from modum.cluster.environment import ClusterEnvironment

__all__ = ["ENVIRONMENTS", "ClusterEnvironment", "detect"]
