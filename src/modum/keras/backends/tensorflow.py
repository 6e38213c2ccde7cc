"""Keras on TensorFlow."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import keras
import tensorflow as tf

from modum.keras.backends.base import Backend
from modum.tensorflow.group import group_of
from modum.tensorflow.vector import SharedVariable, check_variables, flatten

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from modum.groups import Group
    from modum.job import Job
    from modum.keras.variables import ModelVariable
    from modum.parameters import TensorSpec, Vector
    from modum.rules import UpdateRule
    from modum.samples import Prefetch
    from modum.tensorflow import TensorFlowGroup


class TensorFlowBackend(Backend):
    """Copies variables through host memory, and provides data as a `tf.data.Dataset`.

    TensorFlow's tensors never change: a tape keeps the values it saw, as assigning to a variable makes a new tensor.
    """

    name = "tensorflow"

    def __init__(self) -> None:
        self._step: Callable[..., Any] | None = None

    def group(self, job: Job, rule: UpdateRule) -> Group[Any]:
        return group_of(job, rule)

    def vectors(
        self, variables: Sequence[ModelVariable], group: Group[Any]
    ) -> tuple[Sequence[Vector], list[TensorSpec]]:
        shared = [
            SharedVariable(name=one.path, variable=one.variable.value, trainable=one.trainable) for one in variables
        ]
        check_variables(shared)
        return flatten(shared, cast("TensorFlowGroup", group)), [one.spec for one in shared]

    def data(self, prefetch: Prefetch, load: Callable[[Any], tuple[Any, ...]]) -> Any:
        signature = keras.tree.map_structure(
            lambda part: tf.TensorSpec((None, *part.shape[1:]), part.dtype), load(slice(0, 1))
        )
        batches = tf.data.Dataset.from_generator(lambda: map(load, prefetch.batches()), output_signature=signature)
        return batches.prefetch(2)

    def means(self, gradients: Sequence[Any], like: Sequence[Any], group: Group[Any], purpose: str) -> list[Any]:
        return group.average(gradients, like, purpose=purpose)

    @contextmanager
    def compiled_for_groups(self, model: Any) -> Iterator[None]:
        compiled, model.jit_compile = model.jit_compile, False  # XLA has no collectives between processes
        try:
            yield
        finally:
            model.jit_compile = compiled

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        made: Callable[..., Any] = tf.function(function, reduce_retracing=True)
        return made

    def kept(self, variables: Sequence[Any], *, stash: bool) -> list[Any]:
        return [tf.convert_to_tensor(variable.value) for variable in variables]

    def forward(
        self, function: Callable[..., tuple[list[Any], Any]], variables: list[Any], inputs: list[Any], *others: Any
    ) -> tuple[list[Any], Any, Callable[[Sequence[Any]], list[Any]]]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            tape.watch(inputs)
            outputs, rest = function(variables, inputs, *others)

        def back(gradients: Sequence[Any]) -> list[Any]:
            found = tape.gradient(
                outputs,
                [*variables, *inputs],
                output_gradients=list(gradients),
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
            return [tf.convert_to_tensor(gradient) for gradient in found]

        return outputs, rest, back

    def apply(self, optimizer: Any, gradients: list[Any], variables: list[Any]) -> None:
        if self._step is None:
            self._step = self.compiled(lambda gradients: optimizer.apply(gradients, variables))
        self._step(gradients)
