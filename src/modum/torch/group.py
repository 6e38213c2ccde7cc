"""A group of workers over torch.distributed: everything synchronous that happens inside it."""

from __future__ import annotations

import os
from contextlib import contextmanager
from datetime import timedelta
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from modum.errors import MemberLostError
from modum.groups import Group
from modum.rules import Hybrid
from modum.rules.hybrid import check_groups
from modum.torch.bucket import Bucket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from modum.job import Job
    from modum.rules import UpdateRule

__all__ = ["TorchGroup", "group_of"]


class TorchGroup(Group[Tensor]):
    """A `torch.distributed.ProcessGroup`, or no process group at all: a group of one, whose methods do nothing.

    Args:
        process_group: the members' process group; None: this worker alone.
        device: device of the collectives' tensors: `cpu` for gloo, the worker's GPU for NCCL.
        owned: whether `close` ends the default process group.
        absent: says which members are missing, once a collective has failed; None: nobody knows.
    """

    def __init__(
        self,
        process_group: dist.ProcessGroup | None = None,
        device: torch.device | str = "cpu",
        *,
        owned: bool = False,
        absent: Callable[[], str] | None = None,
    ) -> None:
        self._absent = absent
        self._process_group = process_group
        self._device = torch.device(device)
        self._owned = owned
        self.rank = 0 if process_group is None else process_group.rank()
        self.size = 1 if process_group is None else process_group.size()

    def largest(self, values: Sequence[float]) -> tuple[float, ...]:
        numbers = torch.tensor(values, dtype=torch.float64, device=self._device)
        if self.size > 1:
            with self.naming_who_is_missing():
                dist.all_reduce(numbers, dist.ReduceOp.MAX, group=self._process_group)
        return tuple(numbers.tolist())

    def broadcast(self, value: int) -> int:
        number = torch.tensor(value, dtype=torch.int64, device=self._device)
        self.align([number])
        return int(number.item())

    def average(
        self, arrays: Sequence[Tensor | None], like: Sequence[Tensor] | None = None, *, purpose: str = "average"
    ) -> list[Tensor | None]:
        if self.size == 1:
            return list(arrays)
        if like is None:
            for array in arrays:
                if array is None:
                    raise ValueError("an array is missing: give average(..., like=...), arrays of the same shapes")
                self.reduce(array)
            return list(arrays)
        means: list[Tensor | None] = list(arrays)
        for dtype in dict.fromkeys(array.dtype for array in like):
            places = [place for place, array in enumerate(like) if array.dtype == dtype]
            found = Bucket([like[place] for place in places], self).average([arrays[place] for place in places])
            for place, mean in zip(places, found, strict=True):
                means[place] = mean
        return means

    def reduce(self, tensor: Tensor) -> None:
        """Replace `tensor` by its mean over the members (collective)."""
        if self.size > 1 and tensor.numel():
            with self.naming_who_is_missing():
                dist.all_reduce(tensor, group=self._process_group)
            tensor.div_(self.size)

    def begin_sum(self, tensor: Tensor) -> dist.Work:
        """Begin to replace `tensor` by its sum over the members (collective); ends with `wait` of what is returned."""
        return self._begin(tensor, dist.ReduceOp.SUM)

    def begin_largest(self, tensor: Tensor) -> dist.Work:
        """Begin to replace `tensor` by its element-wise maximum over the members (collective), as `begin_sum` does."""
        return self._begin(tensor, dist.ReduceOp.MAX)

    def _begin(self, tensor: Tensor, operation: Any) -> dist.Work:
        with self.naming_who_is_missing():
            work: dist.Work | None = dist.all_reduce(tensor, operation, group=self._process_group, async_op=True)
        assert work is not None, "this process is a member"
        return work

    def align(self, arrays: Sequence[Tensor], *, purpose: str = "align") -> list[Tensor]:
        if self.size > 1:
            with self.naming_who_is_missing():
                for array in arrays:
                    dist.broadcast(array, self._global_rank(0), group=self._process_group)
        return list(arrays)

    def gather(
        self, part: Tensor, lengths: Sequence[int], *, purpose: str = "gather", out: Tensor | None = None
    ) -> Tensor:
        """Concatenate the members' parts, as `Group.gather` does (collective).

        Args:
            part: this member's part, 1-D.
            lengths: elements of each member's part.
            purpose: names the collective; members call with the same names in the same order.
            out: memory for the result, 1-D; `part` may be a view of it. None: allocate it.

        Returns:
            The parts of all members, 1-D, in the order of their ranks.
        """
        if self.size == 1:
            return part
        whole = part.new_empty(sum(lengths)) if out is None else out
        slices = [whole[start:end] for start, end in pairwise(accumulate(lengths, initial=0))]
        slices[self.rank].copy_(part)
        # broadcasts, as an all-gather needs slices of one size, or in gloo makes a copy of them all
        with self.naming_who_is_missing():
            works = [
                dist.broadcast(one, self._global_rank(member), group=self._process_group, async_op=True)
                for member, one in enumerate(slices)
                if one.numel()
            ]
            for work in works:
                if work is not None:
                    work.wait()
        return whole

    @contextmanager
    def naming_who_is_missing(self) -> Iterator[None]:
        """Raise `MemberLostError` inside the `with` block where a collective fails because a member is missing."""
        try:
            yield
        except RuntimeError as error:
            if self._absent is None or not (absent := self._absent()):
                raise
            raise MemberLostError(
                f"this group of {self.size} workers cannot go on: {absent}\n"
                "HINT: look for the first error in its output; modum run --on-failure continue lets the other groups go"
                " on, and --timeout gives members longer"
            ) from error

    def close(self) -> None:
        """Destroy the process group if this object owns it."""
        if self._owned:
            self._owned = False
            # its threads end with the last reference, which would be too late at the interpreter's exit
            self._process_group = None
            dist.destroy_process_group()

    def _global_rank(self, member: int) -> int:
        assert self._process_group is not None
        return dist.get_global_rank(self._process_group, member)


def group_of(job: Job, rule: UpdateRule, device: torch.device) -> TorchGroup:
    """Return the group that the rule names, else the one that the job was launched with.

    The latter becomes torch's default process group. Its members find each other through the job's box, and the leader
    keeps their store: a worker that dies takes only its own group with it.

    Args:
        job: from `modum.connect`.
        rule: a rule, which may bring its own process group.
        device: the model's device; decides between gloo and NCCL.

    Returns:
        The group; closing it destroys the process group if it was created here.

    Raises:
        ValueError: the rule and the launch contradict each other, or torch.distributed is already initialized with
            another number of processes than the group has.
        DeadlineError: a member of the group did not come.
    """
    check_groups(rule, job.group.size)
    if not isinstance(rule, Hybrid):
        return TorchGroup()
    if rule.inside is not None:
        return TorchGroup(rule.inside, device)
    size = job.group.size
    if size == 1:
        return TorchGroup()
    if dist.is_initialized():
        if (world := dist.get_world_size()) != size:
            raise ValueError(
                f"torch.distributed is already initialized with {world} processes, but the group has {size}: "
                "pass the group's own process group, Hybrid(inside=torch.distributed.new_group(...))"
            )
        return TorchGroup(dist.group.WORLD, device)
    if job.interface:
        # gloo would take the address of the host's name, which is loopback on many machines
        for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(variable, job.interface)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=_store(job),
        rank=job.group.rank,
        world_size=size,
        timeout=timedelta(seconds=job.timeouts.step),
    )
    return TorchGroup(dist.group.WORLD, device, owned=True, absent=job.absent_members)


def _store(job: Job) -> TCPStore:
    """Return the store of this group, which its leader keeps for as long as its process lives."""
    timeout = timedelta(seconds=job.timeouts.meet)
    place = job.rendezvous("torch", members="group")
    if job.group.rank == 0:
        store = TCPStore(job.address, 0, is_master=True, wait_for_workers=False, timeout=timeout)
        place.gather([job.address, store.port])
        return store
    host, port = place.gather(None)[0]
    return TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timeout)
