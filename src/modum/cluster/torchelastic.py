"""Workers that torchrun (torchelastic) started."""

import os
import time
from dataclasses import dataclass
from typing import ClassVar, Self

from modum.cluster.environment import ClusterEnvironment, common_variables, host_group, integer_variable
from modum.cluster.rendezvous import Rendezvous, missing
from modum.errors import ModumError

__all__ = ["TorchElastic"]

_HINT = "start the workers with `torchrun --nproc-per-node 4 train.py`, which sets it, or unset TORCHELASTIC_RUN_ID"
_PAUSE = 0.01


@dataclass(frozen=True, kw_only=True)
class TorchElastic(ClusterEnvironment):
    """The variables that torchrun sets; workers meet in the store that it keeps."""

    name: ClassVar[str] = "torchrun"
    meets: ClassVar[bool] = True

    @classmethod
    def detect(cls) -> bool:
        return "TORCHELASTIC_RUN_ID" in os.environ

    @classmethod
    def read(cls) -> Self:
        for name in ("MASTER_ADDR", "MASTER_PORT"):
            if not os.environ.get(name):
                raise ValueError(f"{name} is not set\nHINT: {_HINT}")
        return cls(
            rank=integer_variable("RANK", _HINT),
            world_size=integer_variable("WORLD_SIZE", _HINT),
            local_rank=integer_variable("LOCAL_RANK", _HINT),
            **host_group(integer_variable("LOCAL_WORLD_SIZE", _HINT)),
            **common_variables(),
        )

    def meeting(self, seconds: float) -> Rendezvous:
        return _StoreMeeting(self.rank, self.world_size, seconds)


class _StoreMeeting(Rendezvous):
    """Keys of the store that torchrun keeps."""

    def __init__(self, rank: int, world_size: int, seconds: float) -> None:
        from modum.torch.store import job_store

        self.address = os.environ["MASTER_ADDR"]
        self._store = job_store(rank)
        self._rank = rank
        self._world_size = world_size
        self._seconds = seconds
        self._round = 0

    def gather(self, text: str) -> list[str]:
        from torch.distributed import DistNetworkError

        keys = [f"meeting/{self._round}/{rank}" for rank in range(self._world_size)]
        self._round += 1
        deadline = time.monotonic() + self._seconds
        try:
            self._store.set(keys[self._rank], text)
            while not self._store.check(keys):  # `wait` would say warnings each time that it returns
                if time.monotonic() > deadline:
                    absent = [rank for rank, key in enumerate(keys) if not self._store.check([key])]
                    raise missing(absent, self._world_size, self._seconds)
                time.sleep(_PAUSE)
            return [self._store.get(key).decode() for key in keys]
        except DistNetworkError as error:
            raise ModumError(
                f"rank {self._rank} lost the store of torchrun at {self.address}:{os.environ['MASTER_PORT']}: "
                f"{str(error).splitlines()[0]}"
            ) from None
