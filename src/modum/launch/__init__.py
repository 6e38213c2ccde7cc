"""How a job is started, and how a worker finds its place in it."""

from modum.launch.environment import ClusterEnvironment
from modum.launch.job import Job, connect
from modum.launch.plan import Plan
from modum.launch.resolver import ENVIRONMENTS, detect

__all__ = ["ENVIRONMENTS", "ClusterEnvironment", "Job", "Plan", "connect", "detect"]
