"""A model's weights as one flat tensor per dtype, in whose memory its parameters lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.parameter import is_lazy

from modum.parameters import FlatLayout, TensorSpec, Vector, check_specs
from modum.torch.wrappers import plain_names

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from modum.box import Buffer
    from modum.torch.group import TorchGroup

DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
PIECE = 1 << 16
"""Elements to correct and copy at a time: they and their correction fit a core's cache."""
READ_ELEMENTS = 1 << 22
"""Elements of the buffer through which a model on a GPU reads shared weights, and in which they are compared."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedTensor:
    """A parameter or buffer of the model that is shared."""

    name: str
    tensor: Tensor
    trainable: bool

    @property
    def spec(self) -> TensorSpec:
        """Dtype and shape, and the memory order where it is not C order."""
        strides = dense_strides(self.tensor)
        usual = torch.empty(self.tensor.shape, device="meta").stride()
        return TensorSpec(
            name=self.name,
            shape=tuple(self.tensor.shape),
            dtype=dtype_name(self.tensor),
            trainable=self.trainable,
            note="" if strides == usual else f"strides {strides}",
        )


def dtype_name(tensor: Tensor) -> str:
    """Return "float32", "bfloat16" and so on."""
    return str(tensor.dtype).removeprefix("torch.")


def dense_strides(tensor: Tensor) -> tuple[int, ...]:
    """Return the strides of a tensor that is dense in any memory order (channels_last, say), else of a dense copy."""
    return torch.empty_like(tensor, device="meta").stride()


def shared_tensors(model: nn.Module, *, frozen: bool = False) -> list[SharedTensor]:
    """Collect the tensors of a model that workers share.

    Integer buffers are left out, and buffers that are not saved with the model or hold infinities (masks and tables,
    which are constants).

    Args:
        model: a model with all tensors on one device.
        frozen: whether parameters that are frozen now are shared as well.

    Returns:
        Trainable parameters, tied ones once, followed by float buffers.

    Raises:
        ValueError: a tensor has no values yet, or a shared one's dtype is neither float32 nor bfloat16; tensors lie on
            several devices, or share memory without being one; or nothing is trainable. Or something else distributes
            the model: see `plain_names`.
    """
    plain = plain_names(model)
    _check_there(model)
    saved = model.state_dict().keys()
    found = [
        SharedTensor(name=plain(name), tensor=parameter, trainable=True)
        for name, parameter in model.named_parameters()
        if frozen or parameter.requires_grad
    ]
    if not any(shared.tensor.requires_grad for shared in found):
        raise ValueError("the model has no trainable parameter (requires_grad is False everywhere)")
    found += [
        SharedTensor(name=plain(name), tensor=buffer, trainable=False)
        for name, buffer in model.named_buffers()
        if name in saved and buffer.is_floating_point() and bool(buffer.isfinite().all())
    ]
    check_tensors(found)
    _check_apart(model, {id(shared.tensor) for shared in found})
    return found


def _check_there(model: nn.Module) -> None:
    """Check that all tensors of a model have shapes and values.

    Raises:
        ValueError: one has not.
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise ValueError(
                f"{name} has no shape yet ({type(tensor).__name__}), and can be shared once it has: run a batch "
                "through the model before the optimizer and the Averager are made"
            )
        if tensor.is_meta:
            raise ValueError(
                f"{name} has no values (device meta), and can be shared once it has: model.to_empty(device=...), and "
                "initialize or load it, before the optimizer and the Averager are made"
            )


def _check_apart(model: nn.Module, shared: AbstractSet[int]) -> None:
    """Check that no shared tensor of a model lies in another one's memory, which it would leave when it is shared.

    Raises:
        ValueError: two do.
    """
    spans = sorted(
        (str(tensor.device), tensor.data_ptr(), tensor.data_ptr() + _extent(tensor), name, id(tensor))
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
        if tensor.numel() and tensor.layout is torch.strided
    )
    furthest = None
    for span in spans:
        device, start, end, name, identity = span
        if furthest is not None and furthest[0] == device and start < furthest[2] and shared & {identity, furthest[4]}:
            one, other = sorted([furthest[3], name])
            raise ValueError(
                f"{one} and {other} are two tensors in the same memory, and would come apart: tie them as one "
                "Parameter (assign the same object to both modules), or give each its own memory (.clone())"
            )
        if furthest is None or furthest[0] != device or end > furthest[2]:
            furthest = span


def _extent(tensor: Tensor) -> int:
    """Return the bytes from a tensor's first element to the end of its last one."""
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    return (1 + sum((length - 1) * stride for length, stride in steps)) * tensor.itemsize


def check_tensors(found: Sequence[SharedTensor]) -> None:
    """Check that the box supports all dtypes and that all tensors lie on one device.

    Args:
        found: the tensors.

    Raises:
        ValueError: nothing is trainable, the box does not support a dtype, or the devices differ.
    """
    odd = next((shared for shared in found if shared.tensor.dtype not in DTYPES), None)
    check_specs([shared.spec for shared in found], "" if odd is None else _conversion(odd))
    if len(devices := {shared.tensor.device for shared in found}) > 1:
        raise ValueError(f"the model's tensors lie on several devices ({devices}); move it to one first")


def _conversion(odd: SharedTensor) -> str:
    """Return what to type so that a tensor can be shared."""
    if odd.tensor.is_complex():
        return (
            "keep its real and imaginary parts as one more dimension of a float32 tensor (torch.view_as_real), and put "
            "them together in forward (torch.view_as_complex)"
        )
    if not odd.tensor.is_floating_point():
        return "it cannot be trained either: leave share_frozen=True out"
    convert = "convert the model (model.float())"
    if not odd.trainable:
        return f"{convert}, or leave this buffer to each worker: register_buffer(..., persistent=False)"
    return f"{convert}; for mixed precision use torch.autocast"


class FlatVector(Vector):
    """The shared tensors of one dtype, moved into one flat tensor; each becomes a view of it.

    Values, strides and identities of parameters and buffers are preserved, so optimizers and compiled models that hold
    them keep working; each has a storage of its own still, which is a part of the flat one's memory. Besides the flat
    tensor, this member's slice is kept in host memory (pinned, for a model on a GPU) and, in a group of several, a
    second flat tensor as scratch.
    """

    def __init__(self, tensors: Sequence[SharedTensor], group: TorchGroup) -> None:
        dtype, device = tensors[0].tensor.dtype, tensors[0].tensor.device
        layout = FlatLayout([shared.spec for shared in tensors], members=group.size, rank=group.rank)
        self.layout = layout
        self.tensors = [tensors[index] for index in layout.order]
        self._group = group
        self.flat = torch.zeros(layout.size, dtype=dtype, device=device)
        for shared, view in zip(self.tensors, self.views(self.flat), strict=True):
            view.copy_(shared.tensor.detach())
            shared.tensor.data = _alone(view)
        pinned = device.type == "cuda"
        self._host = torch.zeros(layout.own, dtype=dtype, pin_memory=pinned)
        self.staging = as_numpy(self._host)
        self.scratch = torch.zeros_like(self.flat) if group.size > 1 else None
        """A flat vector. Nothing stays in it after a call or a backward pass, but for `save`."""
        self._copied = torch.cuda.Event() if pinned else None  # type: ignore[no-untyped-call]
        self._statistics = self.flat[layout.trainable :]
        self._statistics_sent = torch.empty_like(self._statistics)
        self._saved: Tensor | None = None

    def views(self, flat: Tensor) -> list[Tensor]:
        """Return views of `flat` (laid out like this vector) with the shapes and strides of the tensors."""
        return [
            flat[start : start + shared.tensor.numel()].as_strided(
                shared.tensor.shape, dense_strides(shared.tensor), flat.storage_offset() + start
            )
            for start, shared in zip(self.layout.starts, self.tensors, strict=True)
        ]

    @torch.no_grad()
    def fingerprint(self) -> tuple[float, float]:
        """Return two numbers that other values would not have: a look whether they changed, without a copy of them."""
        total = squares = 0.0
        for piece in torch.split(self.flat, READ_ELEMENTS):
            part = piece.double()
            total += part.sum().item()
            squares += part.dot(part).item()
        return total, squares

    def check(self) -> None:
        base = self.flat.data_ptr()
        for start, shared in zip(self.layout.starts, self.tensors, strict=True):
            if shared.tensor.numel() and shared.tensor.data_ptr() != base + start * self.flat.itemsize:
                raise RuntimeError(
                    f"{shared.name} was moved after the Averager was made, and is shared no more: "
                    "call model.to(...), .cuda() or .float() before Averager(job, model, ...)"
                )

    @torch.no_grad()
    def snapshot(self) -> None:
        self._group.average([self._statistics])
        self._statistics_sent.copy_(self._statistics)
        self._host.copy_(self.flat[self.offset : self.offset + self._host.numel()], non_blocking=True)
        if self._copied is not None:
            self._copied.record(torch.cuda.current_stream(self.flat.device))

    def arrived(self) -> None:
        if self._copied is not None:
            self._copied.synchronize()

    @torch.no_grad()
    def subtract(self, rate: float) -> None:
        correction = self._host.to(self.flat.device, non_blocking=True)
        if self.scratch is not None:
            lengths = [high - low for low, high in zip(self.bounds, self.bounds[1:], strict=False)]
            correction = self._group.gather(correction, lengths, out=self.scratch)
        self.flat[: self.trainable].sub_(correction[: self.trainable])
        self._mix(rate, correction[self.trainable :])

    @torch.no_grad()
    def subtract_and_snapshot(self, rate: float) -> None:
        if self.scratch is not None or self.flat.device.type != "cpu":
            super().subtract_and_snapshot(rate)
            return
        # copies what was corrected while it is in the cache: the traffic of one pass instead of two
        for start in range(0, self.trainable, PIECE):
            end = min(start + PIECE, self.trainable)
            staged = self._host[start:end]
            staged.copy_(self.flat[start:end].sub_(staged))
        self._mix(rate, self._host[self.trainable :])
        self._statistics_sent.copy_(self._statistics)
        self._host[self.trainable :].copy_(self._statistics)

    def _mix(self, rate: float, correction: Tensor) -> None:
        """Apply `modum.parameters.mixed` in place."""
        moved = self._statistics_sent.sub_(self._statistics)
        self._statistics.add_(moved, alpha=rate).sub_(correction)

    @torch.no_grad()
    def read(self, buffer: Buffer) -> None:
        if self.flat.device.type == "cpu":
            buffer.read(as_numpy(self.flat))
            return
        host = torch.empty(min(self.size, READ_ELEMENTS), dtype=self.flat.dtype)
        for start in range(0, self.size, READ_ELEMENTS):
            part = self.flat[start : start + READ_ELEMENTS]
            piece = host[: part.numel()]
            buffer.read(as_numpy(piece), offset=start)
            part.copy_(piece)

    @torch.no_grad()
    def whole(self) -> NDArray[np.generic]:
        return as_numpy(self.flat.cpu())

    @torch.no_grad()
    def align(self) -> None:
        self._group.align([self.flat])

    @torch.no_grad()
    def save(self) -> None:
        self._saved = self.flat.clone() if self.scratch is None else self.scratch.copy_(self.flat)

    @torch.no_grad()
    def restore(self) -> None:
        assert self._saved is not None, "nothing was saved"
        self.flat.copy_(self._saved)
        self._saved = None


def _alone(view: Tensor) -> Tensor:
    """Return the same memory as a tensor with a storage of its own: a file of one view of the flat one would have all.

    The flat tensor lives as long as what is returned.
    """
    if not view.numel():
        return view.clone()
    memory = view.as_strided((view.numel(),), (1,))  # views are dense, in any order
    alone: Tensor = torch.from_dlpack(memory)  # type: ignore[attr-defined]
    return alone.as_strided(view.shape, view.stride())


def as_numpy(tensor: Tensor) -> NDArray[np.generic]:
    """Return a NumPy view of a contiguous tensor in host memory; bfloat16 as its bits, in uint16."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    array: NDArray[np.generic] = tensor.numpy()
    return array


def flatten(tensors: Sequence[SharedTensor], group: TorchGroup) -> list[FlatVector]:
    """Return one `FlatVector` per dtype that occurs, float32 first."""
    by_dtype = {dtype: [shared for shared in tensors if shared.tensor.dtype == dtype] for dtype in DTYPES}
    return [FlatVector(some, group) for some in by_dtype.values() if some]
