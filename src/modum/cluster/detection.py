"""Which launcher started this process."""

import os

from modum.cluster.by_hand import ByHand
from modum.cluster.environment import ClusterEnvironment
from modum.cluster.modum_run import ModumRun
from modum.cluster.mpi import Mpi
from modum.cluster.single import Single
from modum.cluster.slurm import Slurm
from modum.cluster.torchelastic import TorchElastic

__all__ = ["ENVIRONMENTS", "detect"]

ENVIRONMENTS: tuple[type[ClusterEnvironment], ...] = (ModumRun, TorchElastic, Mpi, Slurm, ByHand, Single)
"""Every environment that Modum knows, the innermost first: each may run inside those that stand behind it (mpirun
in an allocation of Slurm, torchrun once a host under mpirun or srun). The first that detects itself is taken."""


def detect() -> ClusterEnvironment:
    """This process's place in the job, as the environment it was started in says it.

    Raises `ValueError`, with a hint what to type, if that environment is incomplete or contradicts itself.
    """
    found = [environment for environment in ENVIRONMENTS if environment.detect()]
    place = found[0].read()
    if isinstance(place, TorchElastic):
        for outer in (Mpi, Slurm):
            if outer in found:
                _check_nodes(outer.name, outer.processes())
    elif isinstance(place, (Mpi, Slurm)):
        _check_by_hand(place)
    return place


def _check_nodes(launcher: str, count: int) -> None:
    """torchrun that another launcher started once on each host must know of all of them."""
    nodes = os.environ.get("GROUP_WORLD_SIZE", "")
    if count > 1 and nodes != str(count):
        raise ValueError(
            f"{launcher} started torchrun {count} times, but GROUP_WORLD_SIZE, the number of nodes that it knows of, "
            f"is {nodes or 'not set'}: each would train a job of its own\n"
            f"HINT: {launcher} -n {count} torchrun --nnodes {count} --rdzv-backend c10d --rdzv-endpoint HOST:29500 "
            "--nproc-per-node 4 train.py"
        )


def _check_by_hand(place: ClusterEnvironment) -> None:
    """Variables that were set by hand, or left over from another launcher, must not say something else."""
    values = {"RANK": place.rank, "WORLD_SIZE": place.world_size, "LOCAL_RANK": place.local_rank}
    wrong = [name for name, value in values.items() if os.environ.get(name, str(value)) != str(value)]
    if wrong:
        theirs = ", ".join(f"{name}={os.environ[name]}" for name in wrong)
        ours = ", ".join(f"{name}={values[name]}" for name in wrong)
        raise ValueError(
            f"{place.name} says {ours}, but the environment says {theirs}\n"
            f"HINT: unset {' '.join(wrong)} before {place.name}, or start the workers one way only"
        )
