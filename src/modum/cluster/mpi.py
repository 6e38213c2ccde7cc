"""Workers that mpirun or mpiexec started: Open MPI, MPICH, Intel MPI, MVAPICH2."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, NamedTuple, Self

import numpy as np

from modum.cluster.by_hand import check_by_hand
from modum.cluster.environment import ClusterEnvironment, common_variables, host_group, integer_variable
from modum.cluster.rendezvous import WHAT, LauncherRendezvous
from modum.errors import DeadlineError, ModumError
from modum.waiting import poll

__all__ = ["Mpi"]


class _Flavour(NamedTuple):
    """The variables by which one family of launchers tells a process its place, and names of its libraries."""

    rank: str
    world_size: str
    local_rank: str
    local_world_size: str
    libraries: tuple[str, ...]


_FLAVOURS: Final = {
    "Open MPI": _Flavour(
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
        ("Open MPI",),
    ),
    # Hydra, the launcher of both. PMI_RANK alone would be `srun --mpi=pmi2` too.
    "MPICH or Intel MPI": _Flavour(
        "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS", ("MPICH", "Intel", "MVAPICH")
    ),
    "MVAPICH2": _Flavour(
        "MV2_COMM_WORLD_RANK",
        "MV2_COMM_WORLD_SIZE",
        "MV2_COMM_WORLD_LOCAL_RANK",
        "MV2_COMM_WORLD_LOCAL_SIZE",
        ("MVAPICH",),
    ),
}
_PAUSE: Final = 0.001  # seconds between two checks whether all have come
_HINT: Final = "start the workers with `mpirun -n 4 python train.py`, which sets it"


@dataclass(frozen=True, kw_only=True)
class Mpi(ClusterEnvironment):
    """Reads the variables that mpirun sets. mpi4py is used, and MPI initialized, only if workers must meet."""

    name: ClassVar[str] = "mpirun"
    has_rendezvous: ClassVar[bool] = True

    flavour: str
    """The MPI whose mpirun it is."""

    @classmethod
    def detect(cls) -> bool:
        return bool(_found())

    @classmethod
    def started(cls) -> int:
        return integer_variable(next(iter(_found().values())).world_size, _HINT)

    @classmethod
    def read(cls) -> Self:
        found = _found()
        if len(found) > 1:
            places = "; ".join(
                f"{flavour}: " + ", ".join(f"{name}={os.environ.get(name)}" for name in (names.rank, names.world_size))
                for flavour, names in found.items()
            )
            raise ValueError(
                f"two kinds of mpirun claim this process ({places})\n"
                f"HINT: start it by one of them only; unset {' '.join(names.rank for names in found.values())} outside"
            )
        ((flavour, names),) = found.items()
        return cls(
            flavour=flavour,
            rank=integer_variable(names.rank, _HINT),
            world_size=cls.started(),
            local_rank=integer_variable(names.local_rank, _HINT),
            **host_group(integer_variable(names.local_world_size, _HINT)),
            **common_variables(),
        )

    def own_variables(self) -> dict[str, str]:
        names = _FLAVOURS[self.flavour]
        return {
            names.rank: str(self.rank),
            names.world_size: str(self.world_size),
            names.local_rank: str(self.local_rank),
            names.local_world_size: str(self.group_size if self.group_is_host else self.world_size),
        }

    def check(self, outer: Sequence[type[ClusterEnvironment]]) -> None:
        check_by_hand(self)

    def rendezvous(self, timeout: float) -> LauncherRendezvous:
        return _MpiRendezvous(_communicator(self), self.rank, timeout)


def _found() -> dict[str, _Flavour]:
    return {
        name: flavour for name, flavour in _FLAVOURS.items() if {flavour.rank, flavour.local_rank} <= set(os.environ)
    }


def _communicator(place: Mpi) -> Any:
    """Return a communicator of all workers, for Modum alone; initialize MPI if that was not done.

    Raises:
        ModumError: mpi4py is missing, or its library is not the one whose mpirun started this process.
    """
    try:
        import mpi4py

        mpi4py.rc.initialize = False  # first check whose library it is: a wrong one may abort the process
        mpi4py.rc.finalize = True
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise ModumError(
            f"rank {place.rank} of {place.world_size}, started by mpirun, cannot use MPI to find the others: {error}\n"
            "HINT: pip install mpi4py (or modum[mpi]); or do without: start a `modum server` and set "
            "MODUM_BOX=host:port and MODUM_TOKEN for every worker, with MASTER_ADDR and MASTER_PORT if groups have "
            "several workers"
        ) from None
    library = MPI.Get_library_version().splitlines()[0].strip().rstrip("\0")
    if not any(name in library for name in _FLAVOURS[place.flavour].libraries):
        raise ModumError(_wrong_library(place, library))
    if not MPI.Is_initialized():
        MPI.Init_thread()
    world = MPI.COMM_WORLD
    if (world.rank, world.size) != (place.rank, place.world_size):
        raise ModumError(
            f"mpirun ({place.flavour}) says rank {place.rank} of {place.world_size}, but MPI itself ({library}) says "
            f"rank {world.rank} of {world.size}: this library was not started by this mpirun\n"
            "HINT: use the mpirun of the same MPI that mpi4py loads: python -m mpi4py --mpi-lib-version"
        )
    return world.Dup()


def _wrong_library(place: Mpi, library: str) -> str:
    folder = os.environ.get("OMPI_LIBDIR_LOC", "/where/it/is") if place.flavour == "Open MPI" else "/where/it/is"
    option = "-x" if place.flavour == "Open MPI" else "-genv"
    name = "libmpi.so.40" if place.flavour == "Open MPI" else "libmpi.so.12"
    equals = "=" if option == "-x" else " "
    return (
        f"mpirun is of {place.flavour}, but mpi4py loads {library}: every process would be alone in its own world\n"
        f"HINT: use the mpirun of that library, or tell mpi4py to load this one's: "
        f"mpirun {option} MPI4PY_LIBMPI{equals}{folder}/{name} ..."
    )


class _MpiRendezvous(LauncherRendezvous):
    """All-gathers of a communicator, begun and then waited for with a deadline, which MPI itself does not have."""

    def __init__(self, communicator: Any, rank: int, timeout: float) -> None:
        self._communicator = communicator
        self._rank = rank
        self._timeout = timeout

    def gather(self, text: str) -> list[str]:
        data = np.frombuffer(text.encode(), np.uint8)
        lengths = np.zeros(self._communicator.size, np.int64)
        self._wait(self._communicator.Iallgather, np.array([data.size], np.int64), lengths)
        ends = lengths.cumsum()
        everything = np.zeros(int(ends[-1]), np.uint8)
        self._wait(self._communicator.Iallgatherv, data, [everything, lengths.tolist()])
        return [everything[end - size : end].tobytes().decode() for end, size in zip(ends, lengths, strict=True)]

    def _wait(self, begin: Callable[..., Any], send: Any, receive: Any) -> None:
        def late() -> DeadlineError:
            return DeadlineError(
                f"rank {self._rank}: not all workers came to {WHAT} within {self._timeout:g} s\n"
                f"HINT: look for the first error in their output; every worker has to call {WHAT}"
            )

        poll(begin(send, receive).Test, timeout=self._timeout, every=_PAUSE, error=late)
