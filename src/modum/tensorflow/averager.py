"""The front end for TensorFlow: one call after each step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import tensorflow as tf

from modum.averaging import LearningRateScale, Worker
from modum.cluster import detect
from modum.rules import Hybrid
from modum.rules.hybrid import check_groups
from modum.tensorflow.group import TensorFlowGroup, launched_group
from modum.tensorflow.vector import SharedVariable, check_dtypes, flatten

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modum.box import Box
    from modum.rules import UpdateRule


class Averager(Worker):
    """Shares variables with all other workers that train them, step by step.

        averager = Averager(module, box)
        for batch in averager.samples(size=len(images), epochs=3, batch_size=64):
            train_step(images[batch], labels[batch])  # a tf.function with a GradientTape, as ever
            averager.step()
        averager.finish()
        with averager.shared_weights():
            tf.saved_model.save(module, "model")

    On return from the constructor the variables have the shared values: those of the first worker. What the optimizer
    keeps stays the worker's own.

    variables
        A `tf.Module` (or whatever has ``trainable_variables`` and ``non_trainable_variables``), or variables. Those
        that train are float32 or bfloat16. Of the others, those of a floating dtype are shared as statistics (running
        means and variances), and integers and the like are the worker's own. They are told apart by name; where
        several have the same, by their order too.
    rule
        ``Hybrid()`` is elastic averaging between the groups that the job was launched with, be they single workers.
        ``Hybrid(inside=launched_group(box))`` names the group.
    name
        What the shared variables are called in the box. All workers that use the name train one model.
    learning_rate_scale, warmup_steps
        See `LearningRateScale`. Here the loop applies it: multiply the learning rate of each step by
        `learning_rate_factor`.
    timeout
        Seconds to wait for the worker that makes the shared variables.

    Raises:
        MismatchError: the variables (names, shapes, dtypes) or the settings differ from the first worker's.
        ValueError: a variable has another dtype, none is trainable, there are no variables yet, or the rule knows no
            groups but the job was launched with groups.
        RuntimeError: the job was launched with groups, and TensorFlow has computed something before
            `launched_group` was called.
    """

    def __init__(
        self,
        variables: tf.Module | Sequence[tf.Variable],
        box: Box,
        rule: UpdateRule | None = None,
        *,
        name: str = "model",
        learning_rate_scale: Literal["linear", "sqrt"] | float | None = None,
        warmup_steps: int = 0,
        timeout: float = 60.0,
    ) -> None:
        rule = rule or Hybrid()
        scale = LearningRateScale(scale=learning_rate_scale, warmup_steps=warmup_steps)
        shared = shared_variables(variables)
        group = group_of(rule, box)
        super().__init__(box, name, group)
        self._group = group
        described = {
            "model": {"backend": "tensorflow"},
            "tensors": [[one.name, one.text] for one in shared],
        }
        self.join(rule, flatten(shared, group), scale, model=described, timeout=timeout)

    def step(self) -> None:
        """A step has ended: what arrived is applied, and an exchange starts when one is due.

        Call it after the optimizer has changed the variables: best outside the `tf.function` that does; inside one
        (that is not compiled by XLA), as the last thing of the step.

        Raises:
            RuntimeError: inside `shared_weights`.
            Whatever the exchange in the background raised.
        """
        if tf.executing_eagerly():
            self._step()
            return
        # after all that the function has done so far
        with tf.control_dependencies(tf.compat.v1.get_default_graph().get_operations()):
            tf.py_function(self._step, [], [])

    def average(self, gradients: Sequence[Any]) -> list[Any]:
        """The gradients' means over the group (collective); call it between the tape and the optimizer.

        In a group of one they come back as they are. None stays None (all members must have gradients for the same
        variables), and sparse gradients become dense.
        """
        return average_gradients(self._group, gradients, f"{self._name}/gradients")

    def _step(self) -> None:
        self.check_own_weights()
        self.stepped()


def average_gradients(group: TensorFlowGroup, gradients: Sequence[Any], purpose: str) -> list[Any]:
    """See `Averager.average`."""
    if group.size == 1:
        return list(gradients)
    there = [number for number, gradient in enumerate(gradients) if gradient is not None]
    means = list(gradients)
    dense = [tf.convert_to_tensor(gradients[number]) for number in there]
    for number, mean in zip(there, group.average(dense, purpose), strict=True):
        means[number] = mean
    return means


def group_of(rule: UpdateRule, box: Box) -> TensorFlowGroup:
    """The group that the rule names, else the one that the job was launched with; ValueError if they contradict."""
    check_groups(rule, detect())
    if not isinstance(rule, Hybrid):
        return TensorFlowGroup()
    return launched_group(box) if rule.inside is None else rule.inside


def shared_variables(variables: Any) -> list[SharedVariable]:
    """What is shared of a module or of some variables, with a name of its own for each.

    Raises:
        ValueError: a dtype that the box has not, nothing trainable, or no variables at all.
    """
    if hasattr(variables, "trainable_variables"):
        variables = [*variables.trainable_variables, *variables.non_trainable_variables]
    # a variable of Keras holds one of TensorFlow
    plain = [(one.name, one) if isinstance(one, tf.Variable) else (one.path, one.value) for one in variables]
    if not plain:
        raise ValueError("there are no variables yet: call the model once on a batch, so that it makes them")
    shared = [
        SharedVariable(name=name, variable=variable, trainable=trains)
        for name, variable, trains in named(plain, [bool(one.trainable) for one in variables])
        if trains or variable.dtype.is_floating
    ]
    check_dtypes(shared)
    return shared


def named(variables: Sequence[tuple[str, Any]], trainable: Sequence[bool]) -> list[tuple[str, Any, bool]]:
    """Variables with names that are no one else's: the second of a name gets #2, and so on."""
    counts: dict[str, int] = {}
    found = []
    for (name, variable), trains in zip(variables, trainable, strict=True):
        name = name.removesuffix(":0")
        counts[name] = counts.get(name, 0) + 1
        found.append((name if counts[name] == 1 else f"{name}#{counts[name]}", variable, trains))
    return found
