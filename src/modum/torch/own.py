"""What of a model is not shared: each worker's own, and compared once, when a worker joins."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Final

import torch

from modum.torch.flat import dtype_name

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from torch import Tensor, nn

    from modum.torch.flat import SharedTensor

__all__ = ["Own"]

_SHOWN: Final = 3
"""How many names a log line has."""


class Own:
    """The parameters and buffers of a model that are not shared.

    Args:
        model: the model.
        shared: its tensors that are shared.
        plain: makes a name in the model the name without wrappers.
    """

    def __init__(self, model: nn.Module, shared: Collection[SharedTensor], plain: Callable[[str], str]) -> None:
        known = {id(each.tensor) for each in shared}
        self._parameters = [(plain(name), each) for name, each in model.named_parameters() if id(each) not in known]
        self._buffers = [(plain(name), each) for name, each in model.named_buffers() if id(each) not in known]

    @property
    def buffers(self) -> Sequence[tuple[str, Tensor]]:
        """The buffers that are not shared, by name."""
        return self._buffers

    def described(self) -> list[list[str]]:
        """Return each one's name and text, which are the same in all workers if the values are.

        Parameters and whole numbers are compared to the bit, as they come from one file or seed; other buffers, such as
        tables of sines, by their mean and size, as machines round them differently; numbers that count something (0-D)
        not at all. It takes about a second for a gigabyte.
        """
        exact = [[name, f"frozen {_form(each)} {_digest(each)}"] for name, each in self._parameters]
        return exact + [
            [name, f"own {_form(each)} {_about(each) if _rounded(each) else _digest(each)}"]
            for name, each in self._buffers
            if each.ndim or _rounded(each)
        ]

    @property
    def line(self) -> str:
        """The names in a line for the log; "" if everything is shared."""
        kinds: dict[str, Sequence[tuple[str, Tensor]]] = {
            "frozen parameters": self._parameters,
            "buffers": self._buffers,
        }
        parts = [
            f"{len(found)} {kind} ({_names([name for name, _ in found])})" for kind, found in kinds.items() if found
        ]
        return f"not shared, each worker's own: {' and '.join(parts)}" if parts else ""


def _names(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _form(tensor: Tensor) -> str:
    return f"{dtype_name(tensor)} {tuple(tensor.shape)}"


def _rounded(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _digest(tensor: Tensor) -> str:
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return blake2b(data.numpy().data, digest_size=4).hexdigest()


def _about(tensor: Tensor) -> str:
    """Three digits of what the finite numbers are like, which rounding errors do not change."""
    flat = (torch.view_as_real(tensor) if tensor.is_complex() else tensor).detach().reshape(-1)
    values = flat[flat.isfinite()].double()
    if not values.numel():
        return "without finite numbers"
    size = values.square().mean().sqrt().item()
    mean = values.mean().item() / size if size else 0.0
    return f"{values.numel()} finite numbers of size {size:.3g}, mean {abs(mean):.2f}"
