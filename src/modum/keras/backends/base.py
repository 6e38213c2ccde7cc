"""The seam between the front end and the framework that Keras computes with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from modum.groups import Group
    from modum.job import Job
    from modum.keras.variables import ModelVariable
    from modum.parameters import TensorSpec, Vector
    from modum.rules import UpdateRule
    from modum.samples import Prefetch


class Backend(ABC):
    """What differs between Keras's backends. A `group` argument is always one that this object has made."""

    name: ClassVar[str]

    # ---- sharing

    @abstractmethod
    def group(self, job: Job, rule: UpdateRule) -> Group[Any]:
        """Return the group that the rule names, else the one that the job was launched with."""

    @abstractmethod
    def vectors(
        self, variables: Sequence[ModelVariable], group: Group[Any]
    ) -> tuple[Sequence[Vector], list[TensorSpec]]:
        """Return the variables as flat vectors, and the specs that must be equal in all workers."""

    @abstractmethod
    def data(self, prefetch: Prefetch, load: Callable[[Any], tuple[Any, ...]]) -> Any:
        """Return the `x` of `fit`: batches that `load` makes from successive batches of shared indices."""

    @contextmanager
    def averaged(self, model: Any, group: Group[Any], purpose: str) -> Iterator[None]:
        """Make the model's optimizer apply the group's mean gradients inside the `with` block."""
        optimizer, apply = model.optimizer, model.optimizer.apply

        def averaged(gradients: Sequence[Any], trainable_variables: Any = None) -> Any:
            variables = model.trainable_variables if trainable_variables is None else trainable_variables
            like = [variable.value for variable in variables]
            return apply(self.means(gradients, like, group, purpose), trainable_variables)

        optimizer.apply = averaged
        try:
            with self.compiled_for_groups(model):
                model.make_train_function(force=True)
                yield
        finally:
            del optimizer.apply
            model.make_train_function(force=True)

    @abstractmethod
    def means(self, gradients: Sequence[Any], like: Sequence[Any], group: Group[Any], purpose: str) -> list[Any]:
        """Return the group's mean gradients; see `Group.average`."""

    @contextmanager
    def compiled_for_groups(self, model: Any) -> Iterator[None]:
        """Compile the model inside the `with` block so that collectives work."""
        yield

    # ---- forward passes whose backward pass comes later

    @abstractmethod
    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, compiled where the framework can."""

    @abstractmethod
    def kept(self, variables: Sequence[Any], *, stash: bool) -> list[Any]:
        """Return tensors with the current values, unaffected by later assignments if `stash`."""

    @abstractmethod
    def forward(
        self, function: Callable[..., tuple[list[Any], Any]], variables: list[Any], inputs: list[Any], *others: Any
    ) -> tuple[list[Any], Any, Callable[[Sequence[Any]], list[Any]]]:
        """Compute `outputs, rest = function(variables, inputs, *others)`.

        Args:
            function: a function that is differentiable in `variables` and `inputs`.
            variables: its first argument.
            inputs: its second argument.
            *others: its other arguments.

        Returns:
            The outputs, the rest, and the backward function, which takes gradients of all outputs and returns those
            of all variables followed by those of all inputs.
        """

    def wait(self, tensors: Sequence[Any]) -> None:  # noqa: B027 - most compute at once
        """Wait until tensors are computed, where the device does so later."""

    @abstractmethod
    def apply(self, optimizer: Any, gradients: list[Any], variables: list[Any]) -> None:
        """Take one step of the optimizer."""
