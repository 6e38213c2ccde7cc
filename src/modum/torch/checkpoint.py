"""What an averager adds to its worker's state in the checkpoints of a job."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Protocol

import torch

from modum.checkpoints.worker import Part

if TYPE_CHECKING:
    from collections.abc import Callable

    from modum.checkpoints.worker import Checkpoints
    from modum.job import Job
    from modum.samples import SamplePools
    from modum.torch.optimizers import Optimizers
    from modum.torch.state import AveragerState

__all__ = ["Checkpointed", "Stateful", "add_random", "read", "written"]


class Stateful(Protocol):
    """A scheduler, a scaler of gradients, an average of weights: whatever can be saved and loaded."""

    def state_dict(self) -> dict[str, Any]:
        """Return its state."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Go on from a state."""


class Checkpointed:
    """The state of an averager, its optimizers, and what the script keeps with them; and torch's random numbers.

    Args:
        job: whose checkpoints these are a part of.
        name: of the averager.
        state: its own.
        optimizers: whose states go along.
        pools: of the samples that are trained on.
        loaded: called once a state was loaded.
    """

    def __init__(
        self,
        job: Job,
        name: str,
        state: AveragerState,
        optimizers: Optimizers,
        pools: SamplePools,
        loaded: Callable[[], None],
    ) -> None:
        self._checkpoints = job.checkpoints
        self._name = f"averager {name}"
        self._state = state
        self._optimizers = optimizers
        self._pools = pools
        self._loaded = loaded
        self._kept: dict[str, Stateful] = {}
        self._checked = False
        add_random(self._checkpoints)
        self._checkpoints.add(self._name, Part(take=self._take, load=self._load, go_on=pools.forget))

    def keep(self, kept: dict[str, Stateful]) -> None:
        """Add what is saved and loaded with the averager: see `Averager.keep`."""
        for name, each in kept.items():
            if not (hasattr(each, "state_dict") and hasattr(each, "load_state_dict")):
                raise TypeError(
                    f"{name} ({type(each).__name__}) has no state_dict and load_state_dict, and cannot be kept: give it"
                    " both, or keep what it is made of"
                )
            _plain({name: each.state_dict()})
            self._kept[name] = each

    def end(self) -> None:
        """Note that all of it is as it will stay."""
        self._checkpoints.end(self._name)

    def _take(self) -> bytes:
        self._pools.note()
        state = {
            "averager": self._state.take(),
            "optimizers": self._optimizers.states(),
            "kept": {name: each.state_dict() for name, each in self._kept.items()},
        }
        if not self._checked:
            _plain(state)
            self._checked = True
        return written(state)

    def _load(self, data: bytes) -> None:
        state = read(data)
        theirs, ours = sorted(state["kept"]), sorted(self._kept)
        if theirs != ours:
            raise ValueError(
                f"the checkpoint has {', '.join(theirs) or 'nothing'} kept with {self._name}, and this script keeps"
                f" {', '.join(ours) or 'nothing'}\nHINT: call averager.keep(...) with the same names as before, before"
                " the loop over the samples"
            )
        self._optimizers.check_states(state["optimizers"])
        self._state.load(state["averager"])
        self._optimizers.load(state["optimizers"])
        for name, each in self._kept.items():
            each.load_state_dict(state["kept"][name])
        self._loaded()


def add_random(checkpoints: Checkpoints) -> None:
    """Have torch's random numbers belong to a worker's state."""
    checkpoints.add("random numbers of torch", Part(take=_random_state, load=_load_random_state, random=True))


def written(state: dict[str, Any]) -> bytes:
    """Return a state as bytes, which `read` reads; of types that are read without running code from the file."""
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def read(data: bytes) -> dict[str, Any]:
    """Return what `written` was given, with tensors in host memory."""
    state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return state


def _plain(state: dict[str, Any]) -> None:
    """Raise ValueError unless the parts of a state are of types that are read without running code from the file."""
    for name, part in state.items():
        try:
            read(written({name: part}))
        except Exception as error:  # noqa: BLE001 - pickle may raise anything
            raise ValueError(
                f"the state of {name} could not be loaded again: {str(error).splitlines()[0]}\nHINT: a state_dict of"
                " tensors, numbers, texts, lists and dicts can"
            ) from None


def _random_state() -> bytes:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return written({"cpu": torch.get_rng_state(), "cuda": cuda})


def _load_random_state(data: bytes) -> None:
    state = read(data)
    torch.set_rng_state(state["cpu"])
    if len(state["cuda"]) == torch.cuda.device_count() and state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
