"""A callback that makes `fit` a worker of a job, and the data for it."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

import keras
import numpy as np

from modum.averaging import LearningRateScale, Worker
from modum.cluster import detect
from modum.groups import BoxGroup
from modum.keras.backend import backend
from modum.keras.variables import model_variables
from modum.rules import Hybrid
from modum.samples import Prefetch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType
    from typing import Self

    from modum.averaging import AveragingStatistics
    from modum.box import Box
    from modum.rules import UpdateRule
    from modum.samples import SharedSamples

REPORT_SECONDS = 0.5
"""Least time between two losses that are told: to look at one waits for the computation."""


class Averaging(keras.callbacks.Callback):  # type: ignore[misc]
    """Shares the weights of the model that `fit` trains with all other workers that train it.

        averaging = modum.keras.Averaging(job.box)
        model.fit(averaging.shard(x, y, batch_size=64, epochs=3), epochs=3, callbacks=[averaging])
        model.save("model.keras")

    From the beginning of `fit` the model has the shared weights: those of the first worker. Every training step is a
    step of the rule. Between the last step of an epoch and the first of the next, validation and other callbacks find
    the *shared* weights in the model (put this callback before them), so a checkpoint that is saved, or a metric that
    stops the training, is theirs. When `fit` returns, nothing that was learned anywhere is lost: the model has the
    final shared weights, the same in all workers.

    Trainable variables are shared, and means and variances that training moves. Frozen layers, seeds, counters, and
    what the optimizer keeps stay the worker's own. In a job that was launched with groups, make this before the model:
    TensorFlow prepares its collectives before its first operation.

    rule
        ``Hybrid()`` is elastic averaging between the groups that the job was launched with, be they single workers.
        Inside a group, gradients are averaged at every step by the backend's own collectives; there, TensorFlow trains
        without XLA.
    name
        What the shared model is called in the box. All workers that use the name train one model.
    learning_rate_scale, warmup_steps
        See `LearningRateScale`. Applied around each step only, so other callbacks see their own values; not for an
        optimizer with a `LearningRateSchedule`.
    timeout
        Seconds to wait for the worker that makes the shared weights.
    finish_timeout
        Seconds to wait, at the end of `fit`, for the others to end theirs.

    `fit` raises
        MismatchError: the model (paths, shapes, dtypes), the backend or the settings differ from the first worker's.
        RuntimeError: the model is not built.
        ValueError: a variable is neither float32 nor bfloat16, nothing is trainable, or `fit` has fewer epochs than
            the data that `shard` made.
        DeadlineError: other groups were still training after ``finish_timeout`` seconds.
    """

    def __init__(
        self,
        box: Box,
        rule: UpdateRule | None = None,
        *,
        name: str = "model",
        learning_rate_scale: Literal["linear", "sqrt"] | float | None = None,
        warmup_steps: int = 0,
        timeout: float = 60.0,
        finish_timeout: float = 600.0,
    ) -> None:
        super().__init__()
        self._backend = backend()
        self._box = box
        self._rule = rule or Hybrid()
        self._name = name
        self._scale = LearningRateScale(scale=learning_rate_scale, warmup_steps=warmup_steps)
        self._timeout = timeout
        self._finish_timeout = finish_timeout
        self.group = self._backend.group(self._rule, box)
        self._participant = Worker(box, name, self.group)
        self._feed: Prefetch | None = None
        self._load: Callable[[Any], tuple[Any, ...]] | None = None
        self._relays: list[BoxGroup] = []
        self._fits = 0
        self._training = ExitStack()
        """What is undone when the training of one `fit` ends."""
        self._lent = ExitStack()
        """The shared weights are in the model until this is closed."""
        self._in_fit = False
        self._is_lent = False
        self._ends_epoch = False
        self._unscaled: float | None = None
        self._told = 0.0

    @property
    def samples(self) -> SharedSamples:
        """What the last `shard` draws from; its `progress` goes from 0 to 1 for schedules. RuntimeError before it."""
        if self._feed is None:
            raise RuntimeError("there are no shared samples yet: call shard first")
        return self._feed.samples

    def shard(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        batch_size: int = 32,
        epochs: int = 1,
        size: int | None = None,
        **options: Any,
    ) -> Any:
        """Data for `fit`, drawn from one pool by all workers: faster ones do more, each sample is done once an epoch.

        Say the same ``epochs`` to `fit`. An epoch of this worker ends when its next samples are of the next one, so
        epochs have different numbers of steps; the training ends when all samples of all epochs are done. The next
        `fit` takes a new `shard`.

        x, y, sample_weight
            Arrays, or structures (tuples, lists, dicts) of arrays, with the samples in the first axis. Or ``x`` is a
            function that takes a 1-D int64 array of indices (or a slice) and returns ``(x, y)`` or
            ``(x, y, sample_weight)`` of that batch; then ``size`` says how many samples there are.
        batch_size
            Samples in a step of the whole group.
        options
            ``block``, ``seed`` and ``timeout`` of `SharedSamples`.

        Returns:
            A `tf.data.Dataset` on TensorFlow, a `torch.utils.data.DataLoader` on torch.

        Raises:
            ValueError: arrays are not equally long, or ``size`` is missing.
        """
        self._load, size = _loader(x, y, sample_weight, size)
        if self.group.size > 1:
            place = f"{self._name}/feed/{detect().group}/{len(self._relays)}"
            self._relays.append(BoxGroup(self._box, place, rank=self.group.rank, size=self.group.size))
            options["group"] = self._relays[-1]
        samples = self._participant.samples(size=size, batch_size=batch_size, epochs=epochs, **options)
        self._feed = Prefetch(samples)
        return self._backend.data(self._feed, self._load)

    @contextmanager
    def shared_weights(self) -> Iterator[None]:
        """The model has the shared weights inside, and the worker's own again afterwards; after `fit`, they are one.

        Raises:
            RuntimeError: before the first `fit`.
        """
        if not self._fits:
            raise RuntimeError("shared_weights() before fit: the model shares nothing yet")
        with self._participant.shared_weights() if self._in_fit and not self._is_lent else nullcontext():
            yield

    def statistics(self) -> AveragingStatistics:
        """Steps, exchanges and their times of this `fit` or the last one, and the interval and moving rate in force."""
        return self._participant.statistics()

    def close(self) -> None:
        """Leave the job, whatever `fit` was doing: for where it raised something. Closing twice does nothing."""
        with ExitStack() as stack:
            stack.callback(self._participant.close)
            for relay in self._relays:
                stack.callback(relay.close)
            stack.callback(self._training.close)
        self._relays = []
        self._in_fit = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # ---- what Keras calls

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        model, feed = self.model, self._feed
        if feed is not None and not feed.done:
            if (epochs := self.params["epochs"]) < feed.samples.epochs:
                raise ValueError(
                    f"fit(epochs={epochs}), but shard(epochs={feed.samples.epochs}): give fit as many, or the last "
                    "samples would never be done"
                )
            feed.together = model.steps_per_execution
        if not model.built and self._load is not None:
            model(self._load(slice(0, 1))[0])  # makes the variables
        variables = model_variables(model)
        vectors, tensors = self._backend.vectors(variables, self.group)
        self._check_schedule()
        self._participant.join(
            self._rule,
            vectors,
            self._scale,
            model={"model": {"backend": self._backend.name}, "tensors": tensors},
            timeout=self._timeout,
            members=f"{self._name}/fit/{self._fits}",
        )
        self._training.callback(self._participant.leave)
        self._fits += 1
        self._in_fit = True
        if self.group.size > 1:
            self._average_gradients()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._take_back()

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if (factor := self._participant.learning_rate_factor) != 1.0:
            self._unscaled = float(self.model.optimizer.learning_rate)
            self.model.optimizer.learning_rate = self._unscaled * factor

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self._unscaled is not None:
            self.model.optimizer.learning_rate = self._unscaled
            self._unscaled = None
        steps, ends_epoch = self.model.steps_per_execution, False
        if self._feed is not None and not self._feed.done:
            steps, ends_epoch = self._feed.trained()
        self._participant.stepped(steps)
        if logs and "loss" in logs and time.monotonic() - self._told > REPORT_SECONDS:
            self._told = time.monotonic()
            self._participant.report(loss=float(logs["loss"]))
        if ends_epoch and not self.model.stop_training:
            # the way to end an epoch whose length nobody knew beforehand
            self._ends_epoch = self.model.stop_training = True

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._lend()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._lend()
        if self._ends_epoch and self._feed is not None and not self._feed.done:
            self.model.stop_training = False
        self._ends_epoch = False

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._take_back()
        left = self._feed is not None and not self._feed.done
        # who stops early has samples in hand that others wait for, until this worker leaves the box
        self._participant.finish(None if left else self._finish_timeout)
        self._participant.pull()
        self._in_fit = False
        self._training.close()

    # ---- inside

    def _lend(self) -> None:
        if self._in_fit and not self._is_lent:
            self._lent.enter_context(self._participant.shared_weights())
            self._is_lent = True

    def _take_back(self) -> None:
        self._is_lent = False
        self._lent.close()

    def _check_schedule(self) -> None:
        if self._scale.scale is not None:
            try:
                self.model.optimizer.learning_rate = float(self.model.optimizer.learning_rate)
            except TypeError as error:
                raise ValueError(
                    f"learning_rate_scale={self._scale.scale!r} cannot be applied to an optimizer with a "
                    "LearningRateSchedule: multiply the schedule itself, or give the optimizer a number"
                ) from error

    def _average_gradients(self) -> None:
        """Until the training ends, the optimizer applies the group's mean gradients."""
        model, optimizer = self.model, self.model.optimizer
        if self._backend.name == "tensorflow":
            compiled = model.jit_compile
            model.jit_compile = False  # XLA knows no collectives between processes
            self._training.callback(setattr, model, "jit_compile", compiled)
        self._training.callback(model.make_train_function, force=True)
        self._training.callback(delattr, optimizer, "apply")
        optimizer.apply = self._backend.averaged(optimizer.apply, self.group, f"{self._name}/gradients")
        model.make_train_function(force=True)


def _loader(x: Any, y: Any, sample_weight: Any, size: int | None) -> tuple[Callable[[Any], tuple[Any, ...]], int]:
    """What loads a batch of indices, and how many samples there are."""
    if callable(x):
        if size is None:
            raise ValueError("shard(function) needs size=: the number of samples that the function can load")
        load: Callable[[Any], tuple[Any, ...]] = x
        return load, size
    parts = tuple(
        keras.tree.map_structure(np.asarray, part)
        for part in ((x, y) if sample_weight is None else (x, y, sample_weight))
        if part is not None
    )
    if not all(array.ndim for array in keras.tree.flatten(parts)):
        raise ValueError("a list is a structure of arrays, and here one of single numbers: give np.array(list)")
    lengths = [len(array) for array in keras.tree.flatten(parts)]
    if len(set(lengths)) != 1 or size not in (None, lengths[0]):
        raise ValueError(f"the arrays have {lengths} samples, and size is {size}: they must be equally long")

    def gather(indices: Any) -> tuple[Any, ...]:
        return tuple(keras.tree.map_structure(lambda array: array[indices], parts))

    return gather, lengths[0]
