"""Which launcher started this process."""

from modum.launch.environment import ClusterEnvironment
from modum.launch.local import ModumRun, Single

__all__ = ["ENVIRONMENTS", "detect"]

ENVIRONMENTS: tuple[type[ClusterEnvironment], ...] = (ModumRun, Single)
"""Every environment that Modum knows. The first that detects itself is taken: the particular come first."""


def detect() -> ClusterEnvironment:
    """This process's place in the job, as the environment it was started in says it.

    Raises `ValueError`, with a hint what to type, if that environment is incomplete or contradicts itself.
    """
    environment = next(environment for environment in ENVIRONMENTS if environment.detect())
    return environment.read()
