"""Detect which launcher started this process."""

from modum.cluster.by_hand import ByHand
from modum.cluster.environment import ClusterEnvironment
from modum.cluster.modum_run import ModumRun
from modum.cluster.mpi import Mpi
from modum.cluster.single import Single
from modum.cluster.slurm import Slurm
from modum.cluster.torchelastic import TorchElastic

__all__ = ["ENVIRONMENTS", "detect"]

ENVIRONMENTS: tuple[type[ClusterEnvironment], ...] = (ModumRun, TorchElastic, Mpi, Slurm, ByHand, Single)
"""Every environment that Modum knows, the innermost first: each may run inside those listed after it (mpirun
in a Slurm allocation, torchrun once per host under mpirun or srun). The first that detects itself is taken."""


def detect() -> ClusterEnvironment:
    """Return this process's place in the job, from the environment in which it was started.

    Returns:
        The place, of the class of the launcher.

    Raises:
        ValueError: that environment is incomplete, or contradicts itself or an outer one; the message hints at what
            to type.
    """
    innermost, *outer = [environment for environment in ENVIRONMENTS if environment.detect()]
    place = innermost.read()
    place.check(outer)
    return place
