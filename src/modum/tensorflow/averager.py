"""The front end for TensorFlow: one call after each step."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import tensorflow as tf

from modum.averaging import LearningRateScale, Worker
from modum.parameters import unique_names
from modum.rules import Hybrid
from modum.samples import Batches, SamplePools
from modum.tensorflow.group import group_of
from modum.tensorflow.vector import SharedVariable, check_variables, flatten

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType
    from typing import Self

    from modum.averaging import AveragingStatistics
    from modum.job import Job
    from modum.rules import UpdateRule
    from modum.samples import SharedSamples


class Averager:
    """Shares variables with all other workers that train them, step by step.

        with modum.connect() as job, Averager(job, module) as averager:
            for x, y in averager.share((images, labels), batch_size=64, epochs=3):
                train_step(x, y)  # a tf.function with a GradientTape, as ever
                averager.step()
            averager.finish()
            with averager.shared_weights():
                tf.saved_model.save(module, "model")

    On return from the constructor the variables have the shared values: those of the first worker. What the optimizer
    keeps stays the worker's own.

    Args:
        job: from `modum.connect`.
        variables: a `tf.Module` (or whatever has `trainable_variables` and `non_trainable_variables`), or variables.
            Those that train are float32 or bfloat16. Of the others, those of a floating dtype are shared as statistics
            (running means and variances), and integers and the like are the worker's own. They are told apart by name;
            where several have the same, by their order too.
        rule: how the variables move together. `Hybrid()`, the default, is elastic averaging between the groups that the
            job was launched with, be they single workers.
        name: what the shared variables are called in the box. All workers that use the name train one model.
        learning_rate_scale: see `LearningRateScale`. Here the loop applies it: multiply the learning rate of each step
            by `learning_rate_factor`.
        warmup_steps: see `LearningRateScale`.
        timeout: seconds to wait for the worker that makes the shared variables.

    Raises:
        MismatchError: the variables (names, shapes, dtypes) or the settings differ from the first worker's.
        ValueError: a variable has another dtype, none is trainable, there are no variables yet, or the rule knows no
            groups but the job was launched with groups.
        RuntimeError: the job was launched with groups, and TensorFlow has computed something before
            `launched_group` was called.
        DeadlineError: another worker did not come in time. In each case nothing of this worker stays in the box.
    """

    def __init__(
        self,
        job: Job,
        variables: tf.Module | Sequence[tf.Variable],
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
        with ExitStack() as stack:
            group = group_of(job, rule)
            stack.callback(group.close)
            described = {
                "model": {"backend": "tensorflow"},
                "tensors": [[one.name, one.spec.text] for one in shared],
            }
            self.worker = Worker.join(
                job, rule, flatten(shared, group), group, name=name, scale=scale, model=described, timeout=timeout
            )
            """This worker's part in the sharing, for those who look inside."""
            stack.callback(self.worker.close)
            self._stack = stack.pop_all()
        self._group = group
        self._name = name
        self._pools = SamplePools(job, name, group)

    @property
    def learning_rate_factor(self) -> float:
        """By what the learning rate of the next step is to be multiplied: see `learning_rate_scale`."""
        return self.worker.learning_rate_factor

    def share(self, data: Any, *, batch_size: int, epochs: int = 1, size: int | None = None, **options: Any) -> Batches:
        """Return batches of data, drawn from one pool by all workers: faster ones do more, none is done twice.

        Args:
            data: an array, or a structure (tuples, lists, dicts) of arrays, with the samples in the first axis; or a
                function that takes a 1-D int64 array of indices and returns that batch.
            batch_size: samples in a step of the whole group.
            epochs: how often each sample is handed out.
            size: samples of the data; needed for a function.
            **options: `block`, `seed` and `timeout` of `SharedSamples`.

        Returns:
            An iterable of batches, of the same structure, of tensors; to be gone through once. Its `samples` knows the
            progress.

        Raises:
            ValueError: the size is missing, or arrays are not equally long.
        """
        load, size = _loader(data, size)
        return Batches(self.indices(size=size, batch_size=batch_size, epochs=epochs, **options), load)

    def indices(self, *, size: int, batch_size: int, epochs: int = 1, **options: Any) -> SharedSamples:
        """Return batches of sample indices, drawn from one pool by all workers; see `SharedSamples`.

        The first calls of all workers share one pool, and so do the second ones: a loop may call it once an epoch.
        """
        return self._pools.pool(size=size, batch_size=batch_size, epochs=epochs, **options)

    def gradients(self, gradients: Sequence[Any], variables: Sequence[tf.Variable] | None = None) -> list[Any]:
        """Return the gradients' means over the group (collective); call it between the tape and the optimizer.

        In a group of one they come back as they are. Where some members have no gradient for a variable (None), they
        count as zero; where none has, None stays. Sparse gradients become dense.

        Args:
            gradients: of `variables`, in their order.
            variables: needed only where a gradient may be None in some members of the group.

        Raises:
            ValueError: a gradient is there that was None in all members at the first step, or is None without
                `variables` while others have it.
        """
        return self._group.average(gradients, variables, purpose=f"{self._name}/gradients")

    def step(self) -> None:
        """Say that a step has ended: what arrived is applied, and an exchange starts when one is due.

        Call it after the optimizer has changed the variables: best outside the `tf.function` that does; inside one
        (that is not compiled by XLA), as the last thing of the step.

        Raises:
            RuntimeError: inside `shared_weights`.
            ModumError: what the exchange in the background raised.
        """
        if tf.executing_eagerly():
            self._step()
            return
        # after all that the function has done so far
        with tf.control_dependencies(tf.compat.v1.get_default_graph().get_operations()):
            tf.py_function(self._step, [], [])

    def finish(self, timeout: float | None = 600.0) -> None:
        """Do a last exchange, so that nothing learned here is lost, and wait until all others have done theirs.

        Afterwards the shared variables are final, unless `timeout` is None: then this worker does not wait. In a group,
        all members call it; no step may follow.

        Raises:
            DeadlineError: other groups were still training after `timeout` seconds.
        """
        self.worker.finish(timeout)

    @contextmanager
    def shared_weights(self) -> Iterator[None]:
        """Give the variables the shared values inside, and the worker's own again afterwards.

        For evaluation and saving, by any one worker. No step is allowed inside. Takes memory for one more copy of the
        variables meanwhile.
        """
        with self.worker.shared_weights():
            yield

    def statistics(self) -> AveragingStatistics:
        """Return steps, exchanges and their times so far, and the interval and moving rate in force."""
        return self.worker.statistics()

    def close(self) -> None:
        """Leave: the pending exchange ends, and the variables stay as they are."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _step(self) -> None:
        self.worker.check_own_weights()
        self.worker.stepped()


def shared_variables(variables: Any) -> list[SharedVariable]:
    """Return what is shared of a module or of some variables, with a name of its own for each.

    Raises:
        ValueError: a dtype that the box has not, nothing trainable, or no variables at all.
    """
    if hasattr(variables, "trainable_variables"):
        variables = [*variables.trainable_variables, *variables.non_trainable_variables]
    if not variables:
        raise ValueError("there are no variables yet: call the model once on a batch, so that it makes them")
    # other libraries' variables hold one of TensorFlow, and have a path that tells more than a name
    plain = [one if isinstance(one, tf.Variable) else one.value for one in variables]
    names = unique_names([getattr(one, "path", one.name).removesuffix(":0") for one in variables])
    shared = [
        SharedVariable(name=name, variable=variable, trainable=bool(one.trainable))
        for name, variable, one in zip(names, plain, variables, strict=True)
        if one.trainable or variable.dtype.is_floating
    ]
    check_variables(shared)
    return shared


def _loader(data: Any, size: int | None) -> tuple[Any, int]:
    """Return what loads a batch of indices, and how many samples there are."""
    if callable(data):
        if size is None:
            raise ValueError("share(function) needs size=: the number of samples that the function can load")
        return data, size
    arrays = tf.nest.map_structure(np.asarray, data)
    lengths = sorted({len(array) for array in tf.nest.flatten(arrays)})
    if len(lengths) != 1 or size not in (None, *lengths):
        raise ValueError(f"the arrays have {lengths} samples, and size is {size}: they must be equally long")
    return lambda batch: tf.nest.map_structure(lambda array: tf.constant(array[batch]), arrays), lengths[0]
