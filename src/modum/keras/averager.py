"""The front end for Keras: a callback that makes `fit` a worker of a job, and the data for it."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import keras
import numpy as np

from modum.averaging import LearningRateScale, OptimizerKind, Worker, choose, mend
from modum.errors import DeadlineError, MismatchError, ModumError
from modum.groups import BoxGroup
from modum.keras.backends import backend
from modum.keras.variables import model_variables
from modum.rules import Hybrid, UpdateRule
from modum.samples import Prefetch, SamplePools

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType
    from typing import Self

    from modum.averaging import AveragingStatistics, Choice, Reaction, Scale
    from modum.box import Value
    from modum.coordination import Control
    from modum.job import Job
    from modum.rules import Auto
    from modum.samples import SharedSamples

_log = logging.getLogger("modum")

REPORT_SECONDS = 0.5
"""Least time between two reported losses: reading one waits for the computation."""

_UNFOLLOWED = (
    "these samples are shared, and nothing confirms here that they were trained on: other workers would wait for them\n"
    "HINT: pass the Averager whose share() made them: fit(averager.share(...), callbacks=[averager]); evaluate and "
    "predict take the arrays themselves"
)

_training: WeakKeyDictionary[Job, set[str]] = WeakKeyDictionary()
"""The names that train now, by job."""


class Averager(keras.callbacks.Callback):  # type: ignore[misc]
    """Shares the weights of the model that `fit` trains with all other workers that train it.

        with modum.connect() as job, modum.keras.Averager(job) as averager:
            model.fit(averager.share(x, y, batch_size=64, epochs=3), epochs=3, callbacks=[averager])
            model.save("model.keras")

    From the first epoch of `fit` the model has the shared weights: those of rank 0, with what its other callbacks have
    restored when the training began (`BackupAndRestore`), unless the box has weights of this name already. The epochs
    and samples of all workers begin where those of rank 0 do. Every training step is a step of the rule. Between the
    last step of an epoch and the first of the next, validation and other callbacks see the *shared* weights in the
    model (put this callback before them), so a saved checkpoint, or a metric that stops the training, belongs to
    them. When `fit` returns, nothing that a worker learned is lost: the model has the final shared weights, the same
    in all workers.

    What callbacks decide is for all workers, by `Job.control`. Where one stops the training, all stop. Where one
    changes the learning rate at the end of an epoch, all take it from their next epoch on, if that worker is the one
    that validates, or rank 0 where none does. Workers without validation data get the results of the one that has some.

    Trainable variables are shared, and means and variances that training moves. A later `fit` of the same callback may
    share others, where layers were frozen or unfrozen in between: they begin with rank 0's. Frozen layers, seeds,
    counters and the optimizer's variables are not shared, but for moving averages of the weights (`use_ema=True`):
    these are shared as statistics, and when `fit` returns the model has the shared average, the same in all workers. In
    a job launched with groups, create this before the model: TensorFlow prepares its collectives before its first
    operation.

    `fit` raises `MismatchError` if the model (paths, shapes, dtypes), the backend or the settings differ from the first
    worker's, or a checkpoint was restored that is ahead of the weights in the box; `RuntimeError` if the model is not
    built; `ValueError` if a variable is neither float32 nor bfloat16, nothing is trainable, `fit` has fewer epochs than
    the data that `share` made, or two callbacks of one name are in it; and `DeadlineError` if other groups were still
    training after `finish_timeout` seconds. Data of `share` raise `RuntimeError` where no callback follows the
    training, or all of it is done (TensorFlow makes that an error of its own, with the same text).

    Args:
        job: from `modum.connect`.
        rule: how the weights move together. "auto" chooses by the optimizer, see `modum.averaging.choose`: averaging
            with drift for SGD, and elastic averaging for Adam and its like, between the groups that the job was
            launched with (groups of one worker by default). Inside a group, gradients are averaged at every
            step by the backend's own collectives; there, TensorFlow trains without XLA.
        name: name of the shared model in the box. All workers that use it train one model.
        learning_rate_scale: see `LearningRateScale`; "auto" goes with the rule: the number of groups for Adam and its
            like, else 1. Applied only around each step, so that other callbacks see their own values; not for an
            optimizer with a `LearningRateSchedule`, which keeps its rate, with a warning, where the factor is chosen.
        warmup_steps: see `LearningRateScale`; "auto": 100 for a factor that was chosen.
        on_nonfinite: what happens where this worker's weights have NaN or infinity when they are to be exchanged. They
            never reach the shared weights. "restore": with a warning, this worker drops what it learned since its last
            exchange, takes the shared weights, and sets what is not finite in its optimizer to 0; a second time
            within 100 exchanges is an error. "raise": it is one at once.
        timeout: seconds to wait for rank 0, which creates the shared weights; then another worker does. None: as
            `Job.timeouts` say.
        finish_timeout: seconds to wait, at the end of `fit`, for the others to end theirs; None: as `Job.timeouts` say.
    """

    def __init__(
        self,
        job: Job,
        rule: UpdateRule | str | None = "auto",
        *,
        name: str = "model",
        learning_rate_scale: Scale = "auto",
        warmup_steps: int | Auto = "auto",
        on_nonfinite: Reaction = "restore",
        timeout: float | None = None,
        finish_timeout: float | None = None,
    ) -> None:
        super().__init__()
        job.checkpoints.refuse("modum.keras.Averager")
        self._backend = backend()
        self._job = job
        self._given = rule, learning_rate_scale, warmup_steps
        self._name = name
        self._on_nonfinite = on_nonfinite
        self._chosen = choose(OptimizerKind(name="any"), *self._given)  # what cannot be is said before any work
        self._timeout = job.timeouts.create if timeout is None else timeout
        self._finish_timeout = job.timeouts.others if finish_timeout is None else finish_timeout
        self._group = self._backend.group(job, rule if isinstance(rule, UpdateRule) else Hybrid())
        self._pools = SamplePools(job, name, self._group, lambda: self._leaving)
        self._worker: Worker | None = None
        self._prefetch: Prefetch | None = None
        self._load: Callable[[Any], tuple[Any, ...]] | None = None
        self._beside: list[BoxGroup] = []
        """The group through the box, for each pool: data are loaded by a thread of their own."""
        self._control: Control | None = None
        self._rate: float | None = None
        """The optimizer's learning rate before other callbacks saw the end of the epoch."""
        self._followed = 0.0
        """The learning rate of all workers that this one has taken; 0: none."""
        self._validates = False
        self._validated = -1
        """The epoch of the newest validation of another worker that callbacks were given."""
        self._shared = name
        """What the shared weights are called in the box: as the first `fit` that shared just these variables."""
        self._tensors: list[list[str]] = []
        self._fit = self._next_fit()
        """What this `fit` is called in the box: the n-th of all workers is one."""
        self._begun = False
        """This worker has joined the others, in this `fit`."""
        self._in_epoch = self._late = False
        self._progress: Value | None = None
        """In the box, for this `fit`: the epoch at which the job began, and the one that a worker has reached."""
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
    def control(self) -> Control:
        """What this `fit` does in all workers: stop, learning rate; raises `RuntimeError` before `share` or `fit`."""
        if self._control is None:
            raise RuntimeError("there is nothing to control yet: call share, or fit with this callback, first")
        return self._control

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
        control = self._control = self._job.control(self._next_fit())
        options["stopped"] = lambda: control.should_stop
        samples = self._pools.pool(size=size, batch_size=batch_size, epochs=epochs, **options)
        self._prefetch = Prefetch(samples, unfollowed=_UNFOLLOWED)
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
            if self._prefetch is not None:
                with suppress(ModumError):  # the box may be gone: then the samples go with the session
                    self._prefetch.end()
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
        self._training.close()  # of a fit that has failed
        self._begun = self._in_epoch = self._validates = self._late = False
        self._rate, self._followed, self._validated = None, 0.0, -1
        model, prefetch = self.model, self._prefetch
        self._fit = self._next_fit()
        self._control = self._job.control(self._fit)
        if prefetch is not None and not prefetch.over:
            if (epochs := self.params["epochs"]) < prefetch.samples.epochs:
                raise ValueError(
                    f"fit(epochs={epochs}), but share(epochs={prefetch.samples.epochs}): give fit as many, or the last "
                    "samples would never be done"
                )
            prefetch.together = model.steps_per_execution
            prefetch.followed = True
            if not prefetch.left():
                _log.info("others have done all samples: nothing is left to train for rank %d", self._job.rank)
                self._late = True
                model._initial_epoch = self.params["epochs"]  # the way to train none
        if not model.built and self._load is not None:
            model(self._load(slice(0, 1))[0])  # creates the variables
        model_variables(model)  # raises what is wrong with the model
        self._chosen = self._choice()
        self._progress = self._job.box.value(f"{self._fit}/epochs")
        if self._job.rank and not model._initial_epoch:
            with suppress(DeadlineError):
                # its epochs count from where the job begins, which may be a checkpoint of rank 0
                later = self._job.counts[f"{self._name}/fit"] > 0
                begun = self._progress.get() if later else self._progress.wait(self._timeout)
                model._initial_epoch = begun[0] if begun else None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self._in_epoch:
            raise ValueError("this Averager is in the list of callbacks twice: pass it once")
        self._in_epoch = True
        if not self._begun:
            self._join(epoch)
        self._follow_rate()

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._take_back()
        if (factor := self.worker.learning_rate_factor) != 1.0:
            self._unscaled = float(self.model.optimizer.learning_rate)
            self.model.optimizer.learning_rate = self._unscaled * factor

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._restore_rate()
        steps, ends_epoch = self.model.steps_per_execution, False
        if self._prefetch is not None and not self._prefetch.done:
            steps, ends_epoch = self._prefetch.trained()
        self.worker.stepped(steps)
        # in a group, what its members have fetched ahead is trained on first: nobody else gets it
        if self._leaving and (self._prefetch is None or self._group.size == 1):
            self.model.stop_training = True
        if logs and "loss" in logs and time.monotonic() - self._told > REPORT_SECONDS:
            self._told = time.monotonic()
            self._job.report(loss=float(logs["loss"]))
        if ends_epoch and not self.model.stop_training:
            # the way to end an epoch whose length was not known beforehand
            self._ends_epoch = self.model.stop_training = True
            if self._prefetch is not None and not self.params.get("steps"):
                self._prefetch.end_pass()  # TensorFlow waits for its thread before it begins the next one

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._validates = self._in_fit
        self._lend()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._in_epoch = False
        self._reached(epoch + 1)
        self._rate = self._optimizer_rate()
        self._share_validation(epoch, logs)
        self._lend()
        if self._ends_epoch and self._prefetch is not None and not self._prefetch.done:
            self.model.stop_training = False
        if (self._prefetch is None or self._prefetch.over) and self._all_stop():
            self.model.stop_training = True
        self._ends_epoch = False

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if not self._begun:
            # nothing was left, or a checkpoint says that all epochs are done
            self._join(0 if self._late else self.params["epochs"])
        self._take_back()
        stopped = self.model.stop_training
        if self._prefetch is not None:
            stopped = self.model.stop_training and (self._prefetch.over or not self._prefetch.done)
            self._prefetch.end()
        if stopped and not self._leaving:
            self.control.stop(f"fit was stopped in rank {self._job.rank}")
        left = self._prefetch is not None and not self._prefetch.done and not stopped
        # in a group, one whose fit had too few epochs holds samples that others wait for until it leaves the box
        self.worker.finish(None if left and self._group.size > 1 else self._finish_timeout)
        self.worker.pull()
        self.model._initial_epoch = None  # Keras would begin the next fit there too
        self.model.optimizer.finalize_variable_values(self.model.trainable_variables)  # as fit has done before
        self._in_fit = False
        self._training.close()

    # ---- inside

    def _restore_rate(self) -> None:
        if self._unscaled is not None:
            self.model.optimizer.learning_rate = self._unscaled
            self._unscaled = None

    @property
    def _leaving(self) -> bool:
        """Whether this worker, or a member of its group, was asked to leave the job: its `fit` alone ends."""
        if self._worker is None:
            return self._group.size == 1 and self._job.stopping
        return self._worker.leaving

    def _next_fit(self) -> str:
        return f"{self._name}/fit/{self._job.counts[f'{self._name}/fit']}"

    def _all_stop(self) -> bool:
        """Whether all workers are to stop; all members of a group find the same."""
        (stop,) = self._group.largest([float(self.control.should_stop)])
        return stop > 0

    def _share_validation(self, epoch: int, logs: dict[str, Any] | None) -> None:
        """Give this worker's results to the others, or theirs to this one's callbacks, each once."""
        if logs is None:
            return
        found = {name: float(value) for name, value in logs.items() if name.startswith("val_")}
        if found:
            if self.control.validator(self._job.rank) == self._job.rank:
                self.control.validation = (epoch, found)
        elif not self._validates and (newest := self.control.validation) is not None and newest[0] != self._validated:
            self._validated, results = newest
            logs.update(results)

    def _follow_rate(self) -> None:
        """Give the others the learning rate that callbacks have set at the end of the last epoch, or take theirs.

        The worker that validates decides, or else rank 0.
        """
        rate = self._optimizer_rate()
        if rate is None:
            return
        if self._rate is not None and rate != self._rate:
            if (self.control.validator() or 0) == self._job.rank:
                self.control.learning_rate = rate
            else:
                rate = self._rate
        # members of a group take one at the same step
        shared = (self.control.learning_rate or 0.0) if self._group.rank == 0 else 0.0
        (shared,) = self._group.largest([shared])
        if shared != self._followed:
            self._followed = rate = shared
        if rate != self._optimizer_rate():
            self.model.optimizer.learning_rate = rate

    def _optimizer_rate(self) -> float | None:
        """Return the optimizer's learning rate; None if it is no number that callbacks may set."""
        optimizer = self.model.optimizer
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        if hasattr(optimizer, "optimizers"):
            return None
        if isinstance(optimizer._learning_rate, keras.optimizers.schedules.LearningRateSchedule):
            return None
        return float(optimizer.learning_rate)

    def _join(self, epoch: int) -> None:
        """Join the others at the first epoch of this `fit`, when other callbacks have restored what they restore."""
        variables = model_variables(self.model)
        vectors, specs = self._backend.vectors(variables, self._group)
        tensors = [[spec.name, spec.text] for spec in specs]
        if self._tensors and tensors != self._tensors:
            # layers were frozen or unfrozen since: all workers go on with other shared weights, made of rank 0's
            self._shared = self._fit
            _log.info("%r shares other variables from this fit on: %s", self._name, _changes(self._tensors, tensors))
        self._tensors = tensors
        assert self._progress is not None
        names = _training.setdefault(self._job, set())
        if self._name in names:
            raise ValueError(
                f"another Averager of the name {self._name!r} is in this fit already, and would wait for this one: "
                "give one alone, or to each a name of its own"
            )
        names.add(self._name)
        self._training.callback(names.discard, self._name)
        first = self._job.rank == 0
        if first:
            self._check_epoch(epoch, *self._progress.set_default([epoch, epoch]))
        self._worker = Worker.join(
            self._job,
            self._chosen.rule,
            vectors,
            self._group,
            name=self._shared,
            scale=self._chosen.scale,
            model={"model": {"backend": self._backend.name}, "tensors": tensors},
            timeout=self._timeout,
            members=self._fit,
            creates=first or self._progress.get() is None,
            on_nonfinite=self._on_nonfinite,
            restored=lambda: mend(self.model.optimizer.variables),
        )
        self._training.callback(self._worker.close)
        self._training.callback(self._restore_rate)
        begun, reached = self._progress.set_default([epoch, epoch])
        self._check_epoch(epoch, begun, reached)
        if begun and self._prefetch is not None and not self._prefetch.done:
            if self.params.get("steps"):
                raise ValueError(
                    f"fit begins at epoch {begun}, and with steps_per_epoch its epochs are not those of share: which "
                    "samples were done before cannot be known\nHINT: leave steps_per_epoch away, or begin at epoch 0"
                )
            self._prefetch.begin(begun)
        self._job.counts[f"{self._name}/fit"] += 1
        self._begun = self._in_fit = True
        if self._group.size > 1:
            # until the training ends, the optimizer applies the group's mean gradients
            self._training.enter_context(self._backend.averaged(self.model, self._group, f"{self._shared}/gradients"))

    def _check_epoch(self, epoch: int, begun: int, reached: int) -> None:
        """Refuse a checkpoint that is ahead of the shared weights, and would be lost."""
        if epoch > reached and (self._job.rank == 0 or not begun):
            raise MismatchError(
                f"this worker (rank {self._job.rank}) begins at epoch {epoch}, by initial_epoch or a checkpoint that "
                f"it has restored, but the weights in the box are of a job that began at epoch {begun} and has come "
                f"to epoch {reached}: what was restored would be lost\nHINT: a job takes up the checkpoint of rank 0, "
                "in a box that has no weights yet: let rank 0 restore it, or all workers; and where the box has "
                "outlived another job, give this one another name (modum run --name second, or MODUM_JOB=second)"
            )
        if epoch != reached:
            _log.info("fit begins at epoch %d; the weights in the box are those of epoch %d", epoch, reached)

    def _reached(self, epoch: int) -> None:
        """Tell workers that come later how far the shared weights are."""
        assert self._progress is not None
        if self._group.rank == 0:
            while (now := self._progress.get())[1] < epoch:
                if self._progress.compare_and_set(now, [now[0], epoch]):
                    return

    def _lend(self) -> None:
        if self._in_fit and not self._is_lent:
            self._lent.enter_context(self.worker.shared_weights())
            self._is_lent = True

    def _take_back(self) -> None:
        self._is_lent = False
        self._lent.close()

    def _choice(self) -> Choice:
        """Choose what was left open, by the optimizer that the model was compiled with."""
        optimizer = self.model.optimizer
        known = OptimizerKind.of(optimizer)
        choice = choose(known, *self._given)
        if choice.scale.scale is None:
            return choice
        try:
            optimizer.learning_rate = float(optimizer.learning_rate)
        except TypeError as error:
            if self._given[1] != "auto":
                raise ValueError(
                    f"learning_rate_scale={choice.scale.scale!r} cannot be applied to an optimizer with a "
                    "LearningRateSchedule: multiply the schedule itself, or give the optimizer a number"
                ) from error
            _log.warning(
                "the learning rate has a LearningRateSchedule and is left as it is: multiply it by the number of groups"
                " (%d) for %s, or give the optimizer a number and use a LearningRateScheduler callback",
                self._job.groups,
                known.name,
            )
            return choice._replace(scale=LearningRateScale())
        return choice


def _changes(before: list[list[str]], now: list[list[str]]) -> str:
    """Name what is shared now and was not, and what is shared no more."""
    then, here = dict(before), dict(now)
    more = [name for name in here if here[name] != then.get(name)]
    less = [name for name in then if name not in here]
    parts = [f"{what} {', '.join(names)}" for what, names in (("now", more), ("no more", less)) if names]
    return "; ".join(parts) or "in another order"


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
