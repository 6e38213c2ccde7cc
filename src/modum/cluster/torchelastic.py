"""Workers that torchrun (torchelastic) started."""

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, ClassVar, Final, Self

from modum.cluster.environment import ClusterEnvironment, common_variables, host_group, integer_variable
from modum.cluster.rendezvous import WHAT, LauncherRendezvous
from modum.coordination.rendezvous import missing
from modum.errors import ModumError
from modum.waiting import poll

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

__all__ = ["TorchElastic"]

_HINT: Final = (
    "start the workers with `torchrun --nproc-per-node 4 train.py`, which sets it, or unset TORCHELASTIC_RUN_ID"
)
_PAUSE: Final = 0.01


@dataclass(frozen=True, kw_only=True)
class TorchElastic(ClusterEnvironment):
    """Reads the variables that torchrun sets; workers meet in the store that it keeps."""

    name: ClassVar[str] = "torchrun"
    has_rendezvous: ClassVar[bool] = True

    store_host: str
    store_port: int
    store_is_kept: bool = False
    """Whether torchrun keeps the store; else rank 0 does, for as long as its process lives."""

    @classmethod
    def detect(cls) -> bool:
        return "TORCHELASTIC_RUN_ID" in os.environ

    @classmethod
    def read(cls) -> Self:
        host = os.environ.get("MASTER_ADDR")
        if not host:
            raise ValueError(f"MASTER_ADDR is not set\nHINT: {_HINT}")
        return cls(
            rank=integer_variable("RANK", _HINT),
            world_size=integer_variable("WORLD_SIZE", _HINT),
            local_rank=integer_variable("LOCAL_RANK", _HINT),
            attempt=integer_variable("TORCHELASTIC_RESTART_COUNT", _HINT, default=0),
            store_host=host,
            store_port=integer_variable("MASTER_PORT", _HINT),
            store_is_kept=os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
            **host_group(integer_variable("LOCAL_WORLD_SIZE", _HINT)),
            **common_variables(),
        )

    def own_variables(self) -> dict[str, str]:
        return {
            "TORCHELASTIC_RUN_ID": "modum",
            "TORCHELASTIC_RESTART_COUNT": str(self.attempt),
            "TORCHELASTIC_USE_AGENT_STORE": str(self.store_is_kept),
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.world_size),
            "LOCAL_RANK": str(self.local_rank),
            "LOCAL_WORLD_SIZE": str(self.group_size if self.group_is_host else self.world_size),
            "MASTER_ADDR": self.store_host,
            "MASTER_PORT": str(self.store_port),
        }

    def check(self, outer: Sequence[type[ClusterEnvironment]]) -> None:
        """Check that a torchrun which another launcher started once on each host knows of all hosts."""
        nodes = os.environ.get("GROUP_WORLD_SIZE", "")
        for launcher in outer:
            count = launcher.started()
            if count > 1 and nodes != str(count):
                raise ValueError(
                    f"{launcher.name} started torchrun {count} times, but GROUP_WORLD_SIZE, the number of nodes that "
                    f"it knows of, is {nodes or 'not set'}: each would train a job of its own\n"
                    f"HINT: {launcher.name} -n {count} torchrun --nnodes {count} --rdzv-backend c10d "
                    "--rdzv-endpoint HOST:29500 --nproc-per-node 4 train.py"
                )

    def rendezvous(self, timeout: float) -> LauncherRendezvous:
        return _StoreRendezvous(self, timeout)


class _StoreRendezvous(LauncherRendezvous):
    """Keys of the store at MASTER_ADDR:MASTER_PORT."""

    def __init__(self, place: TorchElastic, timeout: float) -> None:
        self.address = place.store_host
        self._place = place
        self._timeout = timeout
        self._store = _store(place.store_host, place.store_port, place.rank == 0 and not place.store_is_kept)

    def gather(self, text: str) -> list[str]:
        from torch.distributed import DistNetworkError

        place = self._place
        # torchrun keeps one store over all attempts of a job that it starts again
        prefix = f"modum/{place.attempt}/{next(_rounds)}"
        keys = [f"{prefix}/{rank}" for rank in range(place.world_size)]

        def all_there() -> bool:
            return bool(self._store.check(keys))  # `wait` would log a warning each time

        def late() -> Exception:
            absent = [rank for rank, key in enumerate(keys) if not self._store.check([key])]
            return missing(absent, place.world_size, self._timeout, WHAT)

        try:
            self._store.set(keys[place.rank], text)
            poll(all_there, timeout=self._timeout, every=_PAUSE, error=late)
            return [self._store.get(key).decode() for key in keys]
        except DistNetworkError as error:
            raise ModumError(
                f"rank {place.rank} lost the store of torchrun at {place.store_host}:{place.store_port}: "
                f"{str(error).splitlines()[0]}"
            ) from None


_rounds = itertools.count()
"""Numbers of the rounds: a process that connects again continues in the same store."""


@cache  # it lives as long as the process: others may still read the last round later
def _store(host: str, port: int, keep: bool) -> "TCPStore":
    """Return the store of the job; with `keep`, this process keeps it.

    Raises:
        ModumError: the port is taken, or no store answers there.
    """
    from torch.distributed import DistNetworkError, DistStoreError, TCPStore  # type: ignore[attr-defined]

    try:
        return TCPStore(host, port, is_master=keep, wait_for_workers=False, multi_tenant=True)
    except (DistNetworkError, DistStoreError) as error:
        raise ModumError(
            f"cannot {'keep' if keep else 'reach'} the store of torch.distributed at {host}:{port}: "
            f"{str(error).splitlines()[0]}\n"
            "HINT: is another job at this port? Give this one another: MASTER_PORT, or torchrun --master-port"
        ) from None
