"""A group's mean gradients, averaged while the backward pass still runs."""

from __future__ import annotations

import weakref
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch.distributed as dist
    from torch import Tensor

    from modum.torch.flat import FlatVector
    from modum.torch.group import TorchGroup

__all__ = ["Gradients"]

BUCKET_BYTES: Final = 25 << 20
"""Least size of what one all-reduce sends, as in DistributedDataParallel."""


@dataclass(frozen=True, slots=True)
class _Parameter:
    name: str
    tensor: Tensor
    view: Tensor
    """Its part of the bucket's memory."""
    bucket: int


@dataclass(frozen=True, slots=True)
class _Bucket:
    memory: Tensor
    """1-D; the views of its parameters are parts of it."""
    members: range
    """Numbers of its parameters."""


@dataclass(slots=True, weakref_slot=True)
class _Pass:
    """A backward pass that is under way. Only the engine keeps it: it is gone once an error has ended the pass."""

    missing: list[int]
    """For each bucket, how many of its gradients have not come."""
    seen: set[int] = field(default_factory=set)
    """Numbers of the parameters whose gradients have come."""
    again: set[int] = field(default_factory=set)
    """Buckets with a gradient that grew after they had been sent."""
    complete: list[int] = field(default_factory=list)
    """Buckets whose gradients have all come, in the order in which they did."""
    sent: int = 0
    """Buckets sent so far; all members send them in one order."""


class Gradients:
    """Averages gradients over a group as soon as they are there, bucket by bucket, under the backward pass.

    When `backward()` returns, all members have the same gradients: the means of what each has accumulated, as with
    `DistributedDataParallel(find_unused_parameters=True)`. A gradient that only some members have counts as what the
    others have accumulated before, else as zero; one that no member has in this pass is left alone. All members run the
    same number of backward passes that reach a shared parameter, with the same `no_sync`.

    Args:
        vectors: the shared tensors; their `scratch` holds the buckets during a pass.
        group: the members, at least two.
        problem: asked at the end of each pass why this member cannot go on. If any member cannot, the pass raises
            RuntimeError in all of them.
    """

    def __init__(
        self, vectors: Sequence[FlatVector], group: TorchGroup, problem: Callable[[], str | None] = lambda: None
    ) -> None:
        self._group = group
        self._problem = problem
        self._parameters: list[_Parameter] = []
        self._buckets: list[_Bucket] = []
        for vector in vectors:
            self._add(vector)
        self._device = vectors[0].flat.device
        self._order = list(range(len(self._buckets)))
        """In which the buckets are sent: the last layers first, later as they were complete in the first pass."""
        self._ordered = False
        self._used: set[int] = set()
        """Numbers of the parameters that took part in a pass since the last average."""
        self._works: list[dist.Work] = []
        self._synced = True
        self._averaged = False
        """Whether the gradients were averaged since the last step."""
        self._pass: weakref.ref[_Pass] | None = None
        self._hooks = ExitStack()
        for number, parameter in enumerate(self._parameters):
            added = partial(self._accumulated, number)
            trained = parameter.tensor.requires_grad
            parameter.tensor.requires_grad_()  # frozen tensors take no hooks, but keep them
            hook = parameter.tensor.register_post_accumulate_grad_hook(added)  # type: ignore[no-untyped-call]
            parameter.tensor.requires_grad_(trained)
            self._hooks.callback(hook.remove)

    def _add(self, vector: FlatVector) -> None:
        """Cut the trainable part of a vector into buckets, its end first: gradients come from the last layer on."""
        assert vector.scratch is not None
        views = vector.views(vector.scratch)
        end, first = vector.trainable, len(self._parameters)
        places = [place for place, shared in enumerate(vector.tensors) if shared.trainable]
        for place in reversed(places):
            shared, start = vector.tensors[place], vector.layout.starts[place]
            self._parameters.append(_Parameter(shared.name, shared.tensor, views[place], len(self._buckets)))
            if place == 0 or (end - start) * vector.scratch.itemsize >= BUCKET_BYTES:
                members = range(first, len(self._parameters))
                self._buckets.append(_Bucket(vector.scratch[start:end], members))
                end, first = start, len(self._parameters)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Leave gradients as they are in backward passes inside the `with` block; the next one outside averages all."""
        before, self._synced = self._synced, False
        try:
            yield
        finally:
            self._synced = before

    def settle(self) -> None:
        """Average now what no backward pass has averaged since the last call (collective): gradients set by hand.

        Raises:
            ValueError: a gradient is sparse.
            RuntimeError: a member cannot go on.
        """
        if not self._averaged:
            self._used.update(number for number, one in enumerate(self._parameters) if one.tensor.grad is not None)
            self._finish(self._begin())
        self._averaged = False

    def close(self) -> None:
        """Average no more."""
        self._hooks.close()
        self._wait()

    # ---- what autograd calls

    def _accumulated(self, number: int, parameter: Tensor) -> None:
        """A parameter has a new gradient; in a backward pass inside another one it may come more than once."""
        self._used.add(number)
        if not self._synced:
            return
        current = None if self._pass is None else self._pass()
        if current is None:
            current = self._begin()
            _at_the_end(partial(self._ended, current))
        try:
            self._arrived(current, number)
        except BaseException:
            self._pass = None  # the traceback would keep it
            raise

    def _ended(self, current: _Pass) -> None:
        outer = torch._C._current_autograd_node()
        if outer is None:
            self._finish(current)
            return

        # only a pass inside another one has ended, such as that of a reentrant checkpoint: wait for the outer one
        def left(*_: object) -> None:
            hook.remove()
            _at_the_end(partial(self._ended, current))

        hook = outer.register_hook(left)

    # ---- one pass

    def _begin(self) -> _Pass:
        self._wait()  # for what a pass has sent that an error ended
        current = _Pass([len(bucket.members) for bucket in self._buckets])
        self._pass = weakref.ref(current)
        return current

    def _arrived(self, current: _Pass, number: int) -> None:
        bucket = self._parameters[number].bucket
        if number in current.seen:
            if bucket in self._order[: current.sent]:
                current.again.add(bucket)
            return
        current.seen.add(number)
        current.missing[bucket] -= 1
        if not current.missing[bucket]:
            current.complete.append(bucket)
        while current.sent < len(self._order) and not current.missing[self._order[current.sent]]:
            self._send(self._order[current.sent])
            current.sent += 1

    @torch.no_grad()
    def _send(self, bucket: int) -> None:
        """Begin the all-reduce of a bucket."""
        for number in self._buckets[bucket].members:
            one = self._parameters[number]
            gradient = one.tensor.grad
            if gradient is None:
                one.view.zero_()
            elif gradient.is_sparse:
                raise ValueError(f"the gradient of {one.name} is sparse: groups need dense ones (sparse=False)")
            else:
                one.view.copy_(gradient)
        self._works.append(self._group.begin_sum(self._buckets[bucket].memory))

    @torch.no_grad()
    def _finish(self, current: _Pass) -> None:
        """Send what is left, wait for the sums, and give every parameter its mean."""
        self._pass = None
        for bucket in self._order[current.sent :]:
            self._send(bucket)
        used = [number in self._used and one.tensor.grad is not None for number, one in enumerate(self._parameters)]
        again = [bucket in current.again for bucket in range(len(self._buckets))]
        problem = self._problem()
        flags = torch.tensor([*used, *again, problem is not None], dtype=torch.uint8, device=self._device)
        self._works.append(self._group.begin_largest(flags))
        self._wait()
        *anywhere, anybody = flags.tolist()
        if anybody:
            raise RuntimeError(problem or "another member of the group cannot go on: see its error")
        for bucket, wanted in enumerate(anywhere[len(used) :]):
            if wanted:
                self._send(bucket)
        self._wait()
        for one, there in zip(self._parameters, anywhere, strict=False):
            if not there:
                continue
            if one.tensor.grad is None:
                one.tensor.grad = one.view / self._group.size
            else:
                torch.div(one.view, self._group.size, out=one.tensor.grad)
        self._used.clear()
        self._averaged = True
        if not self._ordered:
            self._learn_order(current)

    def _learn_order(self, current: _Pass) -> None:
        """Send the buckets in the order in which the leader had them; those that it had not come last."""
        order = dict.fromkeys([*current.complete, *self._order])
        leaders = torch.tensor(list(order), device=self._device)
        self._group.align([leaders])
        self._order = leaders.tolist()
        self._ordered = True

    def _wait(self) -> None:
        works, self._works = self._works, []
        if works:
            with self._group.naming_who_is_missing():
                for work in works:
                    work.wait()


def _at_the_end(callback: Any) -> None:
    """Have the engine call back at the end of the backward pass that is under way in this thread."""
    torch.autograd.Variable._execution_engine.queue_callback(callback)
