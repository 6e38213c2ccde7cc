"""A group of workers over torch.distributed: everything synchronous that happens inside it."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from itertools import count
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore  # type: ignore[attr-defined]

from modum.groups import Group
from modum.torch.store import job_store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from modum.cluster import ClusterEnvironment

JOIN_SECONDS = 60.0
"""How long the first workers of a job wait for the last ones, which may be long in importing."""


class TorchGroup(Group):
    """A `torch.distributed.ProcessGroup`, or no process group at all: a group of one, whose methods do
    nothing.

    device
        Where the collectives' tensors live: ``cpu`` for gloo, the worker's GPU for NCCL.
    """

    def __init__(
        self,
        process_group: dist.ProcessGroup | None = None,
        device: torch.device | str = "cpu",
        *,
        owned: bool = False,
    ) -> None:
        self._process_group = process_group
        self._device = torch.device(device)
        self._owned = owned
        self.rank = 0 if process_group is None else process_group.rank()
        self.size = 1 if process_group is None else process_group.size()

    def largest(self, values: Sequence[float]) -> tuple[float, ...]:
        numbers = torch.tensor(values, dtype=torch.float64, device=self._device)
        if self.size > 1:
            dist.all_reduce(numbers, dist.ReduceOp.MAX, group=self._process_group)
        return tuple(numbers.tolist())

    def broadcast(self, value: int) -> int:
        number = torch.tensor(value, dtype=torch.int64, device=self._device)
        self.align(number)
        return int(number.item())

    def average(self, tensor: Tensor) -> None:
        """Replace ``tensor`` by its mean over the members (collective)."""
        if self.size > 1 and tensor.numel():
            dist.all_reduce(tensor, group=self._process_group)
            tensor.div_(self.size)

    def align(self, tensor: Tensor) -> None:
        """Replace ``tensor`` by the leader's (collective)."""
        if self.size > 1:
            dist.broadcast(tensor, self._global_rank(0), group=self._process_group)

    def share_out(self, slices: Sequence[Tensor]) -> None:
        """Fill ``slices``, one a member, each with what its member has in it (collective; an all-gather)."""
        # broadcasts: an all-gather wants slices of one size, or makes a copy of them all in gloo
        works = [
            dist.broadcast(part, self._global_rank(member), group=self._process_group, async_op=True)
            for member, part in enumerate(slices)
            if part.numel()
        ]
        for work in works:
            if work is not None:
                work.wait()

    def close(self) -> None:
        """End the process group, if it was made for this object."""
        if self._owned:
            self._owned = False
            # its threads end with the last reference: at the interpreter's exit that would be too late
            self._process_group = None
            dist.destroy_process_group()

    def _global_rank(self, member: int) -> int:
        assert self._process_group is not None
        return dist.get_global_rank(self._process_group, member)


def launched_group(environment: ClusterEnvironment, device: torch.device) -> TorchGroup:
    """The group of this worker as the job was launched; makes the default process group for it.

    Each group has a process group of its own, found through the store of global rank 0 (``MASTER_ADDR``,
    ``MASTER_PORT``): a worker that dies takes its own group with it and no other.

    Raises:
        ValueError: torch.distributed is already initialized with another number of processes than the group
            has.
    """
    size = environment.group_size
    if size == 1:
        return TorchGroup()
    if dist.is_initialized():
        if (world := dist.get_world_size()) != size:
            raise ValueError(
                f"torch.distributed is already initialized with {world} processes, but the group has {size}: "
                "pass the group's own process group, Hybrid(inside=torch.distributed.new_group(...))"
            )
        return TorchGroup(dist.group.WORLD, device)
    store = job_store(environment.rank)
    generation = next(_generations)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=PrefixStore(f"modum/group/{environment.group}/{generation}", store),
        rank=environment.group_rank,
        world_size=size,
    )
    _meet(store, generation, environment.world_size)
    return TorchGroup(dist.group.WORLD, device, owned=True)


def _meet(store: PrefixStore, generation: int, world_size: int) -> None:
    """Wait until all workers have found their groups: the store ends with global rank 0, which may be gone soon."""
    everybody = f"modum/everybody/{generation}"
    # an error says that rank 0 saw all of them and has left already, or that somebody never came: training may go on
    with contextlib.suppress(dist.DistError):
        if store.add(f"modum/joined/{generation}", 1) == world_size:
            store.set(everybody, "")
        store.wait([everybody], timedelta(seconds=JOIN_SECONDS))


_generations = count()
"""Numbers the groups that this process makes one after the other; their members count alike."""
