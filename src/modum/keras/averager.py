"""The front end for Keras: a callback that makes `fit` a worker of a job, and the data for it."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

import keras
import numpy as np

from modum.averaging import LearningRateScale, Worker
from modum.groups import BoxGroup
from modum.keras.backends import backend
from modum.keras.variables import model_variables
from modum.rules import Hybrid
from modum.samples import Prefetch, SamplePools

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType
    from typing import Self

    from modum.averaging import AveragingStatistics
    from modum.job import Job
    from modum.rules import UpdateRule
    from modum.samples import SharedSamples

REPORT_SECONDS = 0.5
"""Least time between two reported losses: reading one waits for the computation."""


class Averager(keras.callbacks.Callback):  # type: ignore[misc]
    """Shares the weights of the model that `fit` trains with all other workers that train it.

        with modum.connect() as job, modum.keras.Averager(job) as averager:
            model.fit(averager.share(x, y, batch_size=64, epochs=3), epochs=3, callbacks=[averager])
            model.save("model.keras")

    From the beginning of `fit` the model has the shared weights: those of the first worker. Every training step is a
    step of the rule. Between the last step of an epoch and the first of the next, validation and other callbacks see
    the *shared* weights in the model (put this callback before them), so a saved checkpoint, or a metric that
    stops the training, belongs to them. When `fit` returns, nothing that a worker learned is lost: the model has
    the final shared weights, the same in all workers.

    Trainable variables are shared, and means and variances that training moves. Frozen layers, seeds, counters and the
    optimizer's variables are not. In a job launched with groups, create this before the model: TensorFlow
    prepares its collectives before its first operation.

    `fit` raises `MismatchError` if the model (paths, shapes, dtypes), the backend or the settings differ from the first
    worker's; `RuntimeError` if the model is not built; `ValueError` if a variable is neither float32 nor bfloat16,
    nothing is trainable, or `fit` has fewer epochs than the data that `share` made; and `DeadlineError` if other groups
    were still training after `finish_timeout` seconds.

    Args:
        job: from `modum.connect`.
        rule: how the weights move together. `Hybrid()`, the default, is elastic averaging between the groups that the
            job was launched with (groups of one worker by default). Inside a group, gradients are averaged at every
            step by the backend's own collectives; there, TensorFlow trains without XLA.
        name: name of the shared model in the box. All workers that use it train one model.
        learning_rate_scale: see `LearningRateScale`. Applied only around each step, so that other callbacks see their
            own values; not for an optimizer with a `LearningRateSchedule`.
        warmup_steps: see `LearningRateScale`.
        timeout: seconds to wait for the worker that creates the shared weights.
        finish_timeout: seconds to wait, at the end of `fit`, for the others to end theirs.
    """

    def __init__(
        self,
        job: Job,
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
        self._job = job
        self._rule = rule or Hybrid()
        self._name = name
        self._scale = LearningRateScale(scale=learning_rate_scale, warmup_steps=warmup_steps)
        self._timeout = timeout
        self._finish_timeout = finish_timeout
        self._group = self._backend.group(job, self._rule)
        self._pools = SamplePools(job, name, self._group)
        self._worker: Worker | None = None
        self._prefetch: Prefetch | None = None
        self._load: Callable[[Any], tuple[Any, ...]] | None = None
        self._beside: list[BoxGroup] = []
        """The group through the box, for each pool: data are loaded by a thread of their own."""
        self._fits = 0
        self._training = ExitStack()
        """What to undo when the training of a `fit` ends."""
        self._lent = ExitStack()
        """The shared weights are in the model until this is closed."""
        self._in_fit = False
        self._is_lent = False
        self._ends_epoch = False
        self._unscaled: float | None = None
        self._told = 0.0

    @property
    def worker(self) -> Worker:
        """This worker's part in sharing the model, for inspection; raises `RuntimeError` before the first `fit`."""
        if self._worker is None:
            raise RuntimeError("the model shares nothing before fit: call fit with this callback first")
        return self._worker

    @property
    def samples(self) -> SharedSamples:
        """The pool that the last `share` draws from, for its `progress`; raises `RuntimeError` before `share`."""
        if self._prefetch is None:
            raise RuntimeError("there are no shared samples yet: call share first")
        return self._prefetch.samples

    def share(
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
        """Return data for `fit`, drawn from one pool by all workers: faster workers do more, none is lost.

        Pass the same `epochs` to `fit`. An epoch of this worker ends when its next samples belong to the next one, so
        epochs differ in their number of steps; the training ends when all samples of all epochs are done. The next
        `fit` needs a new `share`.

        Args:
            x: an array, or a structure (tuples, lists, dicts) of arrays, with the samples along the first axis. Or a
                function that takes a 1-D int64 array of indices (or a slice) and returns `(x, y)` or `(x, y,
                sample_weight)` of that batch; then `size` is needed.
            y: labels, in the same forms as `x`.
            sample_weight: weights of the samples, in the same forms as `x`.
            batch_size: samples in one step of the whole group.
            epochs: how many times each sample is handed out.
            size: number of samples that a function can load.
            **options: `block`, `seed` and `timeout` of `SharedSamples`.

        Returns:
            A `tf.data.Dataset` on TensorFlow, a `torch.utils.data.DataLoader` on torch.

        Raises:
            ValueError: arrays differ in length, or `size` is missing.
        """
        self._load, size = _loader(x, y, sample_weight, size)
        if self._group.size > 1:
            self._beside.append(BoxGroup.of(self._job, f"{self._name}/samples/{len(self._beside)}"))
            options["group"] = self._beside[-1]
        samples = self._pools.pool(size=size, batch_size=batch_size, epochs=epochs, **options)
        self._prefetch = Prefetch(samples)
        return self._backend.data(self._prefetch, self._load)

    @contextmanager
    def shared_weights(self) -> Iterator[None]:
        """Give the model the shared weights inside the `with` block, and restore the worker's own afterwards.

        After `fit` they are the same.

        Raises:
            RuntimeError: before the first `fit`.
        """
        worker = self.worker
        with worker.shared_weights() if self._in_fit and not self._is_lent else nullcontext():
            yield

    def statistics(self) -> AveragingStatistics:
        """Return the statistics of this `fit` or the last one.

        Returns:
            Steps and exchanges with their times, and the interval and moving rate in force.

        Raises:
            RuntimeError: before the first `fit`.
        """
        return self.worker.statistics()

    def close(self) -> None:
        """Stop sharing, even in the middle of `fit`, as after an error. Closing twice does nothing."""
        with ExitStack() as stack:
            stack.callback(self._group.close)
            for group in self._beside:
                stack.callback(group.close)
            stack.callback(self._training.close)
        self._beside = []
        self._in_fit = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # ---- what Keras calls

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._training.close()  # of a fit that an error has ended
        model, prefetch = self.model, self._prefetch
        if prefetch is not None and not prefetch.done:
            if (epochs := self.params["epochs"]) < prefetch.samples.epochs:
                raise ValueError(
                    f"fit(epochs={epochs}), but share(epochs={prefetch.samples.epochs}): give fit as many, or the last "
                    "samples would never be done"
                )
            prefetch.together = model.steps_per_execution
        if not model.built and self._load is not None:
            model(self._load(slice(0, 1))[0])  # creates the variables
        variables = model_variables(model)
        vectors, specs = self._backend.vectors(variables, self._group)
        self._check_schedule()
        self._worker = Worker.join(
            self._job,
            self._rule,
            vectors,
            self._group,
            name=self._name,
            scale=self._scale,
            model={"model": {"backend": self._backend.name}, "tensors": [[spec.name, spec.text] for spec in specs]},
            timeout=self._timeout,
            members=f"{self._name}/fit/{self._fits}",
        )
        self._training.callback(self._worker.close)
        self._training.callback(self._restore_rate)
        self._fits += 1
        self._in_fit = True
        if self._group.size > 1:
            # until the training ends, the optimizer applies the group's mean gradients
            self._training.enter_context(self._backend.averaged(model, self._group, f"{self._name}/gradients"))

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._take_back()

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if (factor := self.worker.learning_rate_factor) != 1.0:
            self._unscaled = float(self.model.optimizer.learning_rate)
            self.model.optimizer.learning_rate = self._unscaled * factor

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._restore_rate()
        steps, ends_epoch = self.model.steps_per_execution, False
        if self._prefetch is not None and not self._prefetch.done:
            steps, ends_epoch = self._prefetch.trained()
        self.worker.stepped(steps)
        if logs and "loss" in logs and time.monotonic() - self._told > REPORT_SECONDS:
            self._told = time.monotonic()
            self._job.report(loss=float(logs["loss"]))
        if ends_epoch and not self.model.stop_training:
            # the way to end an epoch whose length was not known beforehand
            self._ends_epoch = self.model.stop_training = True

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._lend()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._lend()
        if self._ends_epoch and self._prefetch is not None and not self._prefetch.done:
            self.model.stop_training = False
        self._ends_epoch = False

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._take_back()
        left = self._prefetch is not None and not self._prefetch.done
        # a worker that stops early holds samples that others wait for until it leaves the box
        self.worker.finish(None if left else self._finish_timeout)
        self.worker.pull()
        self._in_fit = False
        self._training.close()

    # ---- inside

    def _restore_rate(self) -> None:
        if self._unscaled is not None:
            self.model.optimizer.learning_rate = self._unscaled
            self._unscaled = None

    def _lend(self) -> None:
        if self._in_fit and not self._is_lent:
            self._lent.enter_context(self.worker.shared_weights())
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


def _loader(x: Any, y: Any, sample_weight: Any, size: int | None) -> tuple[Callable[[Any], tuple[Any, ...]], int]:
    """Return the function that loads a batch by indices, and the number of samples."""
    if callable(x):
        if size is None:
            raise ValueError("share(function) needs size=: the number of samples that the function can load")
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
