"""What an averager and its worker go on from, in the plain types that `torch.load(weights_only=True)` reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor

from modum.torch.flat import dtype_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from modum.averaging import Worker
    from modum.torch.flat import SharedTensor

__all__ = ["AveragerState"]

_FORMAT: Final = 1
_SHOWN: Final = 3
"""How many differences an error names."""


class AveragerState:
    """Takes and loads the state of an averager: see `Averager.state_dict`.

    Args:
        shared: the shared tensors.
        own: buffers of the model that are not shared, by name.
        worker: this worker's part.
    """

    def __init__(self, shared: Sequence[SharedTensor], own: Mapping[str, Tensor], worker: Worker) -> None:
        self._shared = {each.name: each.tensor for each in shared}
        self._own = dict(own)
        self._worker = worker

    @torch.no_grad()
    def take(self) -> dict[str, Any]:
        """Return the state, in memory of its own."""
        worker = self._worker.state()  # first: it applies the exchange that is under way
        return {
            "format": _FORMAT,
            "weights": {name: _copy(tensor) for name, tensor in self._shared.items()},
            "own": {name: _copy(tensor) for name, tensor in self._own.items()},
            "worker": _with_tensors(worker),
        }

    @torch.no_grad()
    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a state. Raises ValueError if it does not fit, and nothing was changed."""
        if state.get("format") != _FORMAT:
            raise ValueError(
                f"this is no state of an averager of format {_FORMAT}: it has {', '.join(map(str, state)) or 'nothing'}"
            )
        _check("weights", state["weights"], self._shared)
        _check("buffers that are not shared", state["own"], self._own)
        worker = _with_arrays(state["worker"])
        self._worker.check_state(worker)
        for name, tensor in {**self._shared, **self._own}.items():
            tensor.copy_({**state["weights"], **state["own"]}[name])
        self._worker.load(worker)


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)


def _check(what: str, theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless two sets of tensors have the same names, shapes and dtypes."""
    texts = [
        {name: f"{dtype_name(each)} {tuple(each.shape)}" for name, each in side.items()} for side in (theirs, ours)
    ]
    names = dict.fromkeys([*texts[0], *texts[1]])
    wrong = [
        f"{name} is {texts[0].get(name, 'missing')} there and {texts[1].get(name, 'missing')} here"
        for name in names
        if texts[0].get(name) != texts[1].get(name)
    ]
    if wrong:
        shown = "; ".join(wrong[:_SHOWN]) + ("; ..." if len(wrong) > _SHOWN else "")
        raise ValueError(
            f"the state is of another model: {len(theirs)} {what} there, {len(ours)} here: {shown}. HINT: make the"
            " model as it was when the state was taken"
        )


def _with_tensors(value: Any) -> Any:
    """Return nested dicts and lists with tensors in place of arrays; bfloat16's bits as int16."""
    if isinstance(value, dict):
        return {key: _with_tensors(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_with_tensors(each) for each in value]
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.view(np.int16) if value.dtype == np.uint16 else value)
    return value


def _with_arrays(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_arrays(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_with_arrays(each) for each in value]
    if isinstance(value, Tensor):
        array = value.numpy()
        return array.view(np.uint16) if array.dtype == np.int16 else array
    return value
