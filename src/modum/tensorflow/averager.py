"""The front end for TensorFlow: one call after each step."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from modum.averaging import OptimizerKind, Worker, choose, mend
from modum.parameters import unique_names
from modum.samples import Batches, SamplePools
from modum.tensorflow.group import group_of
from modum.tensorflow.vector import SharedVariable, check_variables, flatten

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType
    from typing import Self

    from modum.averaging import AveragingStatistics, Reaction, Scale
    from modum.job import Job
    from modum.rules import Auto, UpdateRule
    from modum.samples import SharedSamples


class Averager:
    """Shares variables with all other workers that train them, step by step.

        with modum.connect() as job, Averager(job, module) as averager:
            for x, y in averager.share((images, labels), batch_size=64, epochs=3):
                train_step(x, y)  # a tf.function with a GradientTape, as usual
                averager.step()
            averager.finish()
            with averager.shared_weights():
                tf.saved_model.save(module, "model")

    When the constructor returns, the variables hold the shared values: those of the first worker. The optimizer's
    variables are not shared.

    Args:
        job: from `modum.connect`.
        variables: a `tf.Module` (or an object with `trainable_variables` and `non_trainable_variables`), or variables.
            Trainable ones are float32 or bfloat16. Of the others, those of a floating dtype are shared as statistics
            (running means and variances); integers and the like are not. Variables are matched by name, and
            those of the same name by their order.
        rule: how the variables move together. "auto" chooses by the optimizer, see `modum.averaging.choose`: averaging
            with drift for SGD, and elastic averaging for all others, between the groups that the job was launched with
            (groups of one worker by default).
        optimizer: the Keras optimizer of the loop, to choose by; None: it is not known, and nothing is made of it.
        name: name of the shared variables in the box. All workers that use it train one model.
        learning_rate_scale: see `LearningRateScale`; "auto" goes with the rule: the number of groups for Adam and its
            like, else 1. Here the loop applies it: multiply the learning rate of each step by `learning_rate_factor`.
        warmup_steps: see `LearningRateScale`; "auto": 100 for a factor that was chosen.
        on_nonfinite: what happens where this worker's weights have NaN or infinity when they are to be exchanged. They
            never reach the shared weights. "restore": with a warning, this worker drops what it learned since its last
            exchange, takes the shared weights, and sets what is not finite in `optimizer` to 0; a second time
            within 100 exchanges is an error. "raise": it is one at once.
        timeout: seconds to wait for the worker that creates the shared variables; None: as `Job.timeouts` say.

    Raises:
        MismatchError: the variables (names, shapes, dtypes) or the settings differ from the first worker's.
        ValueError: a variable has another dtype, none is trainable, there are no variables yet, or the rule does not
            support groups and the job was launched with groups.
        RuntimeError: the job was launched with groups, and TensorFlow has computed something before `launched_group`
            was called.
        DeadlineError: another worker did not come within `timeout`. After any of these errors nothing of this worker is
            left in the box.
    """

    def __init__(
        self,
        job: Job,
        variables: tf.Module | Sequence[tf.Variable],
        rule: UpdateRule | str | None = "auto",
        *,
        optimizer: Any = None,
        name: str = "model",
        learning_rate_scale: Scale = "auto",
        warmup_steps: int | Auto = "auto",
        on_nonfinite: Reaction = "restore",
        timeout: float | None = None,
    ) -> None:
        job.checkpoints.refuse("modum.tensorflow.Averager")
        rule, scale = choose(OptimizerKind.of(optimizer), rule, learning_rate_scale, warmup_steps)
        shared = shared_variables(variables)
        with ExitStack() as stack:
            group = group_of(job, rule)
            stack.callback(group.close)
            described = {
                "model": {"backend": "tensorflow"},
                "tensors": [[one.name, one.spec.text] for one in shared],
            }
            self.worker = Worker.join(
                job,
                rule,
                flatten(shared, group),
                group,
                name=name,
                scale=scale,
                model=described,
                timeout=timeout,
                on_nonfinite=on_nonfinite,
                restored=lambda: mend(getattr(optimizer, "variables", ())),
            )
            """This worker's part in sharing the variables, for inspection."""
            stack.callback(self.worker.close)
            self._group = group
            self._name = name
            self._pools = SamplePools(job, name, group, lambda: self.leaving)
            self._stack = stack.pop_all()

    @property
    def learning_rate_factor(self) -> float:
        """The factor to multiply the learning rate of the next step by; see `learning_rate_scale`."""
        return self.worker.learning_rate_factor

    def share(self, data: Any, *, batch_size: int, epochs: int = 1, size: int | None = None, **options: Any) -> Batches:
        """Return batches of data, drawn from one pool by all workers: faster workers do more, none is lost.

        Args:
            data: an array, or a structure (tuples, lists, dicts) of arrays, with the samples along the first axis; or a
                function that takes a 1-D int64 array of indices and returns that batch.
            batch_size: samples in one step of the whole group.
            epochs: how many times each sample is handed out.
            size: number of samples; needed for a function.
            **options: `block`, `seed` and `timeout` of `SharedSamples`.

        Returns:
            An iterable of batches of tensors, of the same structure, which can be iterated once; its `samples`
            attribute has the progress.

        Raises:
            ValueError: the size is missing, or arrays differ in length.
        """
        load, size = _loader(data, size)
        return Batches(self.indices(size=size, batch_size=batch_size, epochs=epochs, **options), load)

    def indices(self, *, size: int, batch_size: int, epochs: int = 1, **options: Any) -> SharedSamples:
        """Return batches of sample indices, drawn from one pool by all workers.

        The first calls of all workers share one pool, and so do their second calls: a loop may call this once per
        epoch.

        Args:
            size: number of samples.
            batch_size: samples in one step of the whole group.
            epochs: how many times each sample is handed out.
            **options: `block`, `seed` and `timeout` of `SharedSamples`.

        Returns:
            An iterable of 1-D int64 arrays of indices: this worker's part of each batch.
        """
        return self._pools.pool(size=size, batch_size=batch_size, epochs=epochs, **options)

    def gradients(self, gradients: Sequence[Any], variables: Sequence[tf.Variable] | None = None) -> list[Any]:
        """Return the group's mean gradients (collective); call it between the tape and the optimizer.

        A group of one gets them back unchanged. Where only some members have a gradient for a variable, None counts as
        zero; where no member has one, None stays. Sparse gradients become dense.

        Args:
            gradients: gradients of `variables`, in their order.
            variables: needed only if a gradient may be None in some members of the group.

        Returns:
            The means, one for each gradient.

        Raises:
            ValueError: a gradient is present that was None in all members at the first step, or is None without
                `variables` while other members have it.
        """
        return self._group.average(gradients, variables, purpose=f"{self._name}/gradients")

    def step(self) -> None:
        """Count a step, apply a correction that has arrived, and start an exchange when one is due.

        Call it after the optimizer has changed the variables, preferably outside the `tf.function` that does so; inside
        one (not compiled by XLA), as the last thing of the step.

        Raises:
            RuntimeError: it is called inside `shared_weights`.
            ModumError: the background exchange failed.
        """
        if tf.executing_eagerly():
            self._step()
            return
        # after all that the function has done so far
        with tf.control_dependencies(tf.compat.v1.get_default_graph().get_operations()):
            tf.py_function(self._step, [], [])

    def finish(self, timeout: float | Auto | None = "auto") -> None:
        """Do a last exchange, so that nothing learned here is lost, and wait until all other workers have done theirs.

        Afterwards the shared variables are final, unless `timeout` is None. All members of a group call this; no step
        may follow, also after an error.

        Args:
            timeout: seconds to wait for the others; "auto": as `Job.timeouts` say; None: do not wait.

        Raises:
            DeadlineError: other groups were still training after `timeout` seconds.
        """
        self._pools.give_back()
        self.worker.finish(timeout)

    @contextmanager
    def shared_weights(self) -> Iterator[None]:
        """Give the variables the shared values inside the `with` block, and restore the worker's own afterwards.

        Use it to evaluate or save the model, in any one worker. No step is allowed inside. It allocates another copy
        of the variables for that time.
        """
        with self.worker.shared_weights():
            yield

    @property
    def leaving(self) -> bool:
        """Whether this worker, or a member of its group, was asked to leave by SIGTERM: see `Job.stopping`.

        All members of a group see it after the same step, one at which they exchange. Loops over `share` and `indices`
        end then; end one of your own likewise, and call `finish`.
        """
        return self.worker.leaving

    def statistics(self) -> AveragingStatistics:
        """Return the steps and exchanges so far, their times, and the interval and moving rate in force."""
        return self.worker.statistics()

    def close(self) -> None:
        """Leave the shared training and end the pending exchange. The variables keep their values."""
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
    """Collect the shared variables of a module or of a list.

    Args:
        variables: see `Averager`.

    Returns:
        The shared variables, each with a unique name.

    Raises:
        ValueError: the box does not support a dtype, nothing is trainable, or there are no variables.
    """
    if hasattr(variables, "trainable_variables"):
        variables = [*variables.trainable_variables, *variables.non_trainable_variables]
    if not variables:
        raise ValueError("there are no variables yet: call the model once on a batch, so that it makes them")
    # other libraries' variables wrap one of TensorFlow's, and have a path that says more than the name
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
    """Return the function that loads a batch by indices, and the number of samples."""
    if callable(data):
        if size is None:
            raise ValueError("share(function) needs size=: the number of samples that the function can load")
        return data, size
    arrays = tf.nest.map_structure(np.asarray, data)
    lengths = sorted({len(array) for array in tf.nest.flatten(arrays)})
    if len(lengths) != 1 or size not in (None, *lengths):
        raise ValueError(f"the arrays have {lengths} samples, and size is {size}: they must be equally long")
    return lambda batch: tf.nest.map_structure(lambda array: tf.constant(array[batch]), arrays), lengths[0]
