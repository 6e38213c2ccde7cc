"""Keras on TensorFlow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import keras
import tensorflow as tf

from modum.keras.backend import Backend
from modum.tensorflow.averager import average_gradients, group_of
from modum.tensorflow.vector import SharedVariable, check_dtypes, flatten

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from modum.box import Box
    from modum.groups import Group
    from modum.keras.variables import ModelVariable
    from modum.parameters import Vector
    from modum.rules import UpdateRule
    from modum.samples import Prefetch
    from modum.tensorflow import TensorFlowGroup


class OnTensorFlow(Backend):
    """Variables are copied through host memory, data come as a `tf.data.Dataset`."""

    name = "tensorflow"

    def group(self, rule: UpdateRule, box: Box) -> Group:
        return group_of(rule, box)

    def vectors(self, variables: Sequence[ModelVariable], group: Group) -> tuple[list[Vector], list[list[str]]]:
        shared = [
            SharedVariable(name=one.path, variable=one.variable.value, trainable=one.trainable) for one in variables
        ]
        check_dtypes(shared)
        return list(flatten(shared, cast("TensorFlowGroup", group))), [[one.name, one.text] for one in shared]

    def data(self, feed: Prefetch, load: Callable[[Any], tuple[Any, ...]]) -> Any:
        signature = keras.tree.map_structure(
            lambda part: tf.TensorSpec((None, *part.shape[1:]), part.dtype), load(slice(0, 1))
        )
        batches = tf.data.Dataset.from_generator(lambda: map(load, feed.batches()), output_signature=signature)
        return batches.prefetch(2)

    def averaged(self, apply: Callable[..., Any], group: Group, purpose: str) -> Callable[..., Any]:
        def averaged(gradients: Sequence[Any], trainable_variables: Any = None) -> Any:
            mean = average_gradients(cast("TensorFlowGroup", group), gradients, purpose)
            return apply(mean, trainable_variables)

        return averaged
