"""Forward passes whose backward pass comes later, on each of Keras's backends: with the weights of the forward pass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import keras

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Differentiation", "differentiation"]


class Differentiation(ABC):
    """What differs between Keras's backends."""

    @abstractmethod
    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, faster if the backend can."""

    @abstractmethod
    def kept(self, variables: Sequence[Any], *, stash: bool) -> list[Any]:
        """Tensors with the values of this moment, whatever is assigned later if ``stash``."""

    @abstractmethod
    def forward(
        self, function: Callable[..., tuple[list[Any], Any]], variables: list[Any], inputs: list[Any], *others: Any
    ) -> tuple[list[Any], Any, Callable[[Sequence[Any]], list[Any]]]:
        """``outputs, rest = function(variables, inputs, *others)``, and the way back.

        The way back takes gradients of all outputs, and returns those of all variables and then of all inputs.
        """

    @abstractmethod
    def apply(self, optimizer: Any, gradients: list[Any], variables: list[Any]) -> None:
        """One step of the optimizer."""


class TapedDifferentiation(Differentiation):
    """TensorFlow's tensors never change: what a tape has seen stays, as assigning to a variable makes a new tensor."""

    def __init__(self) -> None:
        import tensorflow

        self._tf = tensorflow
        self._step: Callable[..., Any] | None = None

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        made: Callable[..., Any] = self._tf.function(function, reduce_retracing=True)
        return made

    def kept(self, variables: Sequence[Any], *, stash: bool) -> list[Any]:
        return [self._tf.convert_to_tensor(variable.value) for variable in variables]

    def forward(
        self, function: Callable[..., tuple[list[Any], Any]], variables: list[Any], inputs: list[Any], *others: Any
    ) -> tuple[list[Any], Any, Callable[[Sequence[Any]], list[Any]]]:
        with self._tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            tape.watch(inputs)
            outputs, rest = function(variables, inputs, *others)

        def back(gradients: Sequence[Any]) -> list[Any]:
            found = tape.gradient(
                outputs,
                [*variables, *inputs],
                output_gradients=list(gradients),
                unconnected_gradients=self._tf.UnconnectedGradients.ZERO,
            )
            return [self._tf.convert_to_tensor(gradient) for gradient in found]

        return outputs, rest, back

    def apply(self, optimizer: Any, gradients: list[Any], variables: list[Any]) -> None:
        if self._step is None:
            self._step = self.compiled(lambda gradients: optimizer.apply(gradients, variables))
        self._step(gradients)


class GraphDifferentiation(Differentiation):
    """PyTorch's optimizers change parameters in place, so that versions are copies."""

    def __init__(self) -> None:
        import torch

        self._torch = torch

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return function

    def kept(self, variables: Sequence[Any], *, stash: bool) -> list[Any]:
        values = [variable.value.detach() for variable in variables]
        return [value.clone() for value in values] if stash else values

    def forward(
        self, function: Callable[..., tuple[list[Any], Any]], variables: list[Any], inputs: list[Any], *others: Any
    ) -> tuple[list[Any], Any, Callable[[Sequence[Any]], list[Any]]]:
        sources = [tensor.requires_grad_() for tensor in (*variables, *inputs)]
        with self._torch.enable_grad():
            outputs, rest = function(sources[: len(variables)], sources[len(variables) :], *others)

        def back(gradients: Sequence[Any]) -> list[Any]:
            pairs = [pair for pair in zip(outputs, gradients, strict=True) if pair[0].requires_grad]
            if not pairs or not sources:
                return [self._torch.zeros_like(source) for source in sources]
            found = self._torch.autograd.grad(
                [output for output, _ in pairs], sources, [gradient for _, gradient in pairs], allow_unused=True
            )
            return [
                self._torch.zeros_like(source) if gradient is None else gradient
                for source, gradient in zip(sources, found, strict=True)
            ]

        return outputs, rest, back

    def apply(self, optimizer: Any, gradients: list[Any], variables: list[Any]) -> None:
        with self._torch.no_grad():
            optimizer.apply(gradients, variables)


def differentiation() -> Differentiation:
    """That of the Keras backend in use; no other framework is imported.

    Raises:
        RuntimeError: there is none for it.
    """
    name = keras.backend.backend()
    known = {"tensorflow": TapedDifferentiation, "torch": GraphDifferentiation}
    if name not in known:
        raise RuntimeError(
            f"Keras models are cut on the backends {' and '.join(known)}, not on {name}\n"
            "HINT: set KERAS_BACKEND=tensorflow (or torch) before keras is imported"
        )
    made: Differentiation = known[name]()
    return made
