"""The optimizers whose steps count, and what they train that is not shared."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from modum.torch.scaling import scale_steps
from modum.torch.wrappers import plain_optimizer

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from torch import nn

    from modum.torch.flat import SharedTensor

__all__ = ["Optimizers"]

_log = logging.getLogger("modum")


class Optimizers:
    """The optimizers of a model, whose steps count; those that come later are found at their first step.

    Before every step it is looked up whether all that the optimizer trains is shared (22 microseconds for 500 tensors).

    Args:
        model: the model.
        shared: its tensors that are shared.
        optimizer: the first one, or a wrapper of it.
        before: called before each step as a step pre-hook of torch is, and may return what that may.
        after: called after each step.
        factor: returns the factor on the learning rate of the next step; None: rates are left alone.

    Raises:
        ValueError: the optimizer holds none of the shared parameters, or trains something that is not shared.
        TypeError: it is none.
    """

    def __init__(
        self,
        model: nn.Module,
        shared: Collection[SharedTensor],
        optimizer: Optimizer,
        before: Callable[[Optimizer, tuple[Any, ...], dict[str, Any]], Any],
        after: Callable[[], None],
        factor: Callable[[], float] | None = None,
    ) -> None:
        self._model = model
        self._shared = frozenset(id(each.tensor) for each in shared)
        self._frozen = frozenset(id(each) for each in model.parameters() if id(each) not in self._shared)
        self._before = before
        self._after = after
        self._factor = factor
        self._known: list[Optimizer] = []
        self._others: WeakKeyDictionary[Optimizer, int] = WeakKeyDictionary()
        """Optimizers that hold nothing of the model, and how many parameters they held then."""
        self._stepping: Optimizer | None = None
        """Whose step is under way, in which it may have others step; also after a step that has raised."""
        self._hooks = ExitStack()
        optimizer = plain_optimizer(optimizer)
        _check_optimizer(optimizer, [each.tensor for each in shared if each.trainable])
        with ExitStack() as failing:
            failing.callback(self._hooks.close)
            self.add(optimizer)
            self._hooks.callback(register_optimizer_step_pre_hook(self._seen).remove)
            failing.pop_all()

    def add(self, optimizer: Optimizer) -> None:
        """Count the steps of this optimizer as well.

        Args:
            optimizer: of the model, or a wrapper of one.

        Raises:
            ValueError: it trains something that is not shared.
            TypeError: it is none, and wraps none.
        """
        optimizer = plain_optimizer(optimizer)
        if optimizer in self._known:
            return
        if problem := self._problem(optimizer):
            raise ValueError(problem)
        with ExitStack() as failing:
            failing.callback(optimizer.register_step_pre_hook(self._begin).remove)
            failing.callback(optimizer.register_step_post_hook(self._end).remove)
            if self._factor is not None:
                failing.callback(scale_steps(optimizer, self._factor))
            self._hooks.push(failing.pop_all())
        self._known.append(optimizer)

    def problem(self) -> str | None:
        """Return what is trained and not shared, and what to do about it; None: nothing is."""
        return next(filter(None, map(self._problem, self._known)), None)

    @torch.no_grad()
    def mend(self) -> None:
        """Set what is not finite in the optimizers' states to 0: with it, the next step would be no better."""
        for optimizer in self._known:
            for state in optimizer.state.values():
                for value in state.values():
                    if isinstance(value, Tensor) and value.is_floating_point():
                        value.nan_to_num_(0.0, 0.0, 0.0)

    def states(self) -> list[dict[str, Any]]:
        """Return the states of the optimizers that are known, in the order in which they came."""
        return [optimizer.state_dict() for optimizer in self._known]

    def check_states(self, states: list[dict[str, Any]]) -> None:
        """Raise ValueError unless these are states of as many optimizers, with as many parameters in their groups."""
        theirs, ours = (
            [[len(group["params"]) for group in state["param_groups"]] for state in side]
            for side in (states, self.states())
        )
        if theirs != ours:
            raise ValueError(
                f"the state is of {len(theirs)} optimizers with {theirs} parameters in their groups, and this averager"
                f" has {len(ours)} with {ours}\nHINT: make them as before; averager.add_optimizer(...) adds a second"
                " one before its first step"
            )

    def load(self, states: list[dict[str, Any]]) -> None:
        """Have the optimizers go on from what `states` has returned."""
        for optimizer, state in zip(self._known, states, strict=True):
            optimizer.load_state_dict(state)

    def close(self) -> None:
        """Leave all optimizers as they were."""
        self._hooks.close()
        self._known.clear()

    # ---- what optimizers call

    def _seen(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Any optimizer of this process is about to step."""
        if optimizer in self._known or self._is_part_of_a_step(optimizer):
            return
        held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if self._others.get(optimizer) == len(held):
            return
        if {id(parameter) for parameter in self._model.parameters()}.isdisjoint(map(id, held)):
            self._others[optimizer] = len(held)
            return
        kind = type(optimizer).__name__
        if problem := self._problem(optimizer):
            raise RuntimeError(problem)
        if self._factor is not None:
            raise RuntimeError(
                f"the learning rate of a second optimizer ({kind}) of the model is not scaled yet: "
                "call averager.add_optimizer(optimizer) before its first step"
            )
        _log.info("a second optimizer (%s) trains the shared model: its steps count as well", kind)
        self.add(optimizer)

    def _begin(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if problem := self._problem(optimizer):
            raise RuntimeError(problem)
        changed = self._before(optimizer, args, kwargs)
        self._stepping = optimizer
        return changed

    def _end(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._stepping = None
        self._after()

    # ---- inside

    def _is_part_of_a_step(self, optimizer: Optimizer) -> bool:
        """Whether its steps are those of a known one: of that whose step is under way, or of one that it will step."""
        if self._stepping is not None and any(held is optimizer for held in vars(self._stepping).values()):
            return True
        return any(held is known for held in vars(optimizer).values() for known in self._known)

    def _problem(self, optimizer: Optimizer) -> str | None:
        for group in optimizer.param_groups:
            if self._shared.issuperset(map(id, group["params"])):
                continue
            for parameter in group["params"]:
                if parameter.requires_grad and id(parameter) not in self._shared:
                    return self._said(parameter)
        return None

    def _said(self, parameter: Tensor) -> str:
        name = next((name for name, each in self._model.named_parameters() if each is parameter), None)
        if name is None:
            return (
                f"the optimizer trains a parameter of shape {tuple(parameter.shape)} that is not in the model, and "
                "would not be shared: give Averager a module that has it too (nn.ModuleList([model, ...])), or the "
                "parameter an optimizer of its own"
            )
        if id(parameter) in self._frozen:
            return (
                f"{name} is trained but not shared, because it was frozen when the Averager was made: make it with "
                "Averager(..., share_frozen=True), or after unfreezing"
            )
        return (
            f"{name} is trained but not shared, because it was not in the model when the Averager was made: add it to "
            "the model before"
        )


def _check_optimizer(optimizer: Optimizer, shared: Collection[Tensor]) -> None:
    """Raise ValueError if an optimizer holds none of the shared parameters."""
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if held.isdisjoint(map(id, shared)):
        raise ValueError("the optimizer holds none of the model's trainable parameters: was it made of another model?")
