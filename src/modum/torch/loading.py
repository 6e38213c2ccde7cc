"""Weights that were loaded into a model while it is shared."""

from __future__ import annotations

import pkgutil
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from modum.torch.flat import FlatVector

__all__ = ["Loads"]

_PROBLEM: Final = (
    "weights were loaded into the model after the Averager was made, and the next exchange would pull them back toward "
    "the shared ones: call averager.push() to make them the shared ones, or averager.pull() to go on from those"
)


class Loads:
    """Notices `load_state_dict` of a model or a part of it, if it changes something.

    Args:
        model: the model.
        vectors: its shared tensors.
        elsewhere: whether the model has weights now that are put aside again.
    """

    def __init__(self, model: nn.Module, vectors: Sequence[FlatVector], elsewhere: Callable[[], bool]) -> None:
        self._vectors = vectors
        self._elsewhere = elsewhere
        self._before: list[tuple[float, float]] | None = None
        """Of the weights before the first load since they were settled; None: there was none."""
        self._hooks = ExitStack()
        hook = _Hook(self._loading)
        for module in model.modules():
            handle = module.register_load_state_dict_pre_hook(hook)  # type: ignore[no-untyped-call]
            self._hooks.callback(handle.remove)

    def problem(self) -> str | None:
        """Return what to do about other weights that were loaded; None: there are none."""
        if self._before is not None:
            if self._before != self._now():
                return _PROBLEM
            self._before = None  # what was there before, such as after an evaluation of others
        return None

    def settled(self) -> None:
        """Note that it is known what becomes of the weights that were loaded."""
        self._before = None

    def close(self) -> None:
        """Notice nothing more."""
        self._hooks.close()

    def _loading(self) -> None:
        if self._before is None and not self._elsewhere():
            self._before = self._now()

    def _now(self) -> list[tuple[float, float]]:
        return [vector.fingerprint() for vector in self._vectors]


class _Hook:
    """Calls a function when a module loads its state; in copies and pickles of the module, something that does nothing.

    That is `nn.Identity`, which can be called with anything and is there where the pickle is read.
    """

    def __init__(self, loading: Callable[[], None]) -> None:
        self._loading = loading

    def __call__(self, *_: Any) -> None:
        self._loading()

    def __deepcopy__(self, _: dict[int, Any]) -> type[nn.Identity]:
        return nn.Identity

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return pkgutil.resolve_name, ("torch.nn:Identity",)
