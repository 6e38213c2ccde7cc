"""The front end for PyTorch: hooks an optimizer, so that a training loop hardly changes."""

from __future__ import annotations

import logging
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Final

import torch

from modum.averaging import OptimizerKind, Worker, choose
from modum.averaging.boundary import Boundary
from modum.samples import SamplePools
from modum.torch.checkpoint import Checkpointed
from modum.torch.flat import flatten, shared_tensors
from modum.torch.gradients import Gradients
from modum.torch.group import group_of
from modum.torch.loader import Loader
from modum.torch.loading import Loads
from modum.torch.optimizers import Optimizers
from modum.torch.own import Own
from modum.torch.state import AveragerState
from modum.torch.wrappers import plain_names, plain_optimizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from types import TracebackType
    from typing import Self

    from torch import nn
    from torch.optim import Optimizer

    from modum.averaging import AveragingStatistics, Reaction, Scale
    from modum.job import Job
    from modum.rules import Auto, UpdateRule
    from modum.samples import SharedSamples
    from modum.torch.checkpoint import Stateful
    from modum.torch.flat import SharedTensor

_log = logging.getLogger("modum")

_TAKEN: Final = (
    "the box has weights of %r, which take the place of this worker's own, of a checkpoint too; if its own are to be "
    "those of all, load them now and call averager.push()"
)

_SHARED: dict[int, str] = {}
"""By the number of each tensor that an averager of this process shares: the averager's name."""


class Averager:
    """Shares a model's weights with all other workers that train it, step by step.

        with modum.connect() as job, Averager(job, model, optimizer) as averager:
            for x, y in averager.share(dataset, batch_size=64, epochs=3):
                ...  # zero_grad, forward, backward, optimizer.step(), as usual
            averager.finish()
            with averager.shared_weights():
                evaluate(model)

    Every call of `optimizer.step()` counts as one step, whatever the optimizer and however many backward passes
    preceded it. When the constructor returns, the model holds the shared weights: those that the box has by this
    `name`, else this worker's, which thereby become the shared ones. So a checkpoint that is loaded before counts in
    the first worker alone; `push` shares one that is loaded later, or elsewhere. The model's trainable parameters and
    float buffers then lie in the memory of one flat tensor per dtype; move or cast the model before, not after.

    Inside a group, gradients are averaged under the backward pass: when `backward()` returns, all members have the
    means of what each has accumulated, as with `DistributedDataParallel(find_unused_parameters=True)`; so clip them,
    log their norms, unscale them as usual. Gradients that no backward pass has made are averaged at the step. A step is
    taken by all members or by none, after the same number of backward passes; each of them must reach a parameter of
    the model.

    Args:
        job: from `modum.connect`.
        model: float32 or bfloat16 weights, all on one device. Frozen parameters and integer buffers are not shared.
        optimizer: any optimizer of the model's parameters, or what wraps one. All that it trains must be in the model.
        rule: how the weights move together. "auto" chooses by the optimizer, see `modum.averaging.choose`: averaging
            with drift for SGD, and elastic averaging for Adam and its like, between the groups that the job was
            launched with (groups of one worker by default). "auto:interval=4" sets more. `statistics().rule` says what
            was chosen.
        name: name of the shared model in the box. All workers that use it train one model.
        share_frozen: also share the parameters that are frozen now, so that they may be unfrozen later. Every exchange
            moves their bytes too, as long as the averager lives.
        learning_rate_scale: see `LearningRateScale`; "auto" goes with the rule: the number of groups for Adam and its
            like, else 1. Applied only during each step, however it ends, so that learning rate schedulers see their own
            values.
        warmup_steps: see `LearningRateScale`; "auto": 100 for a factor that was chosen.
        on_nonfinite: what happens where this worker's weights have NaN or infinity when they are to be exchanged. They
            never reach the shared weights. "restore": with a warning, this worker drops what it learned since its last
            exchange, takes the shared weights, and sets what is not finite in its optimizers to 0; a second time
            within 100 exchanges is an error. "raise": it is one at once.
        timeout: seconds to wait for the worker that creates the shared weights; None: as `Job.timeouts` say.

    Raises:
        MismatchError: the model (names, shapes, dtypes, memory order, values of what is not shared) or the settings
            differ from the first worker's.
        ValueError: a tensor has another dtype or no values, nothing is trainable, the optimizer is for another model or
            trains more than this one, the rule does not support groups and the job was launched with groups, the model
            is distributed by something else (DistributedDataParallel, FSDP, DTensors), or another averager of this
            process shares it.
        TypeError: the optimizer is none, and wraps none.
        DeadlineError: another worker did not come within `timeout`. After any of these errors nothing of this worker is
            left in the box.
    """

    def __init__(
        self,
        job: Job,
        model: nn.Module,
        optimizer: Optimizer,
        rule: UpdateRule | str | None = "auto",
        *,
        name: str = "model",
        share_frozen: bool = False,
        learning_rate_scale: Scale = "auto",
        warmup_steps: int | Auto = "auto",
        on_nonfinite: Reaction = "restore",
        timeout: float | None = None,
    ) -> None:
        rule, scale = choose(OptimizerKind.of(plain_optimizer(optimizer)), rule, learning_rate_scale, warmup_steps)
        tensors = shared_tensors(model, frozen=share_frozen)
        own = Own(model, tensors, plain_names(model))
        self._hooks = ExitStack()
        with ExitStack() as stack:
            stack.callback(self._hooks.close)
            _reserve(tensors, name, stack)
            factor = None if scale.scale is None else self._learning_rate_factor
            self._optimizers = Optimizers(model, tensors, optimizer, self._before_step, self._after_step, factor)
            self._hooks.callback(self._optimizers.close)
            group = group_of(job, rule, tensors[0].tensor.device)
            stack.callback(group.close)
            vectors = flatten(tensors, group)
            before = [vector.fingerprint() for vector in vectors]
            layout = {
                "tensors": [[shared.name, shared.spec.text] for shared in tensors],
                "not shared": own.described(),
            }
            self.worker = Worker.join(
                job,
                rule,
                vectors,
                group,
                name=name,
                scale=scale,
                model=layout,
                timeout=timeout,
                on_nonfinite=on_nonfinite,
                restored=self._optimizers.mend,
            )
            """This worker's part in sharing the model, for inspection."""
            stack.callback(self.worker.close)
            if own.line:
                _log.info("%s", own.line)
            if before != [vector.fingerprint() for vector in vectors]:
                _log.info(_TAKEN, name)
            self._group = group
            self._state = AveragerState(tensors, dict(own.buffers), self.worker)
            self._loads = Loads(model, vectors, lambda: self.worker.lent)
            self._hooks.callback(self._loads.close)
            self._boundary = Boundary(job, self.worker)
            self._pools = SamplePools(job, name, group, lambda: self.leaving, self._boundary)
            self._checkpointed = Checkpointed(
                job, name, self._state, self._optimizers, self._pools, self._loads.settled
            )
            self._gradients = Gradients(vectors, group, self._problem) if group.size > 1 else None
            if self._gradients is not None:
                self._hooks.callback(self._gradients.close)
            self._stack = stack.pop_all()

    def add_optimizer(self, optimizer: Optimizer) -> None:
        """Count the steps of another optimizer of the model as well.

        One that holds parameters of the model is found at its first step, and added then; only with a
        `learning_rate_scale` it must be added before. Each of its steps counts as one. All members of a group add it.

        Args:
            optimizer: all that it trains must be in the model, and shared; a wrapper of one will do.

        Raises:
            ValueError: it trains something that is not shared; the message says what to do.
            TypeError: it is none, and wraps none.
        """
        self._optimizers.add(optimizer)

    def share(
        self, dataset: Any, *, batch_size: int, epochs: int = 1, size: int | None = None, **options: Any
    ) -> Loader:
        """Return batches of a data set, drawn from one pool by all workers: faster workers do more, none is lost.

        Args:
            dataset: a `torch.utils.data.Dataset`; or a tensor or array, or a tuple of them, with the samples along the
                first axis; or a function that takes a 1-D int64 array of indices and returns that batch.
            batch_size: samples in one step of the whole group.
            epochs: how many times each sample is handed out.
            size: number of samples; needed if the data set has no `len`.
            **options: `block`, `seed` and `timeout` are passed to `SharedSamples`, all others to the `DataLoader` of a
                `Dataset`.

        Returns:
            An iterable of batches, which can be iterated once; its `samples` attribute has the progress.

        Raises:
            ValueError: the size is missing, arrays differ in length, or an option is one that Modum sets.
        """
        own = {name: options.pop(name) for name in ("block", "seed", "timeout") if name in options}
        loader = Loader(dataset, size, options)
        return loader.draw(self.indices(size=loader.size, batch_size=batch_size, epochs=epochs, **own))

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

    def push(self) -> None:
        """Make the model's weights the shared ones, for all workers: after loading a checkpoint, say.

        Other groups take them at the end of their next exchange (or when they finish) in place of their own, and drop
        what they have learned since. Of what they had under way nothing gets into the pushed weights; a correction that
        was under way here is dropped. So one group pushes; if several do, the last one counts. All members of a group
        call this, and its leader's weights are taken. What optimizers keep (momentum) stays as it is in every worker.

        Raises:
            RuntimeError: inside `shared_weights`.
            DeadlineError: others were making the shared weights for longer than the averager's `timeout`.
        """
        self.worker.check_own_weights()
        self.worker.push()
        self._loads.settled()

    def pull(self) -> None:
        """Take the shared weights, dropping what this group has learned since its last exchange.

        All members of a group call this.

        Raises:
            RuntimeError: inside `shared_weights`.
        """
        self.worker.check_own_weights()
        self.worker.pull()
        self._loads.settled()

    def state_dict(self) -> dict[str, Any]:
        """Return what this worker goes on from: its weights, what the rule remembers, and its count of steps.

        The shared weights are not in it, they are the box's (`Job.snapshot`); nor is the optimizer, which has a
        `state_dict` of its own. An exchange that is under way is waited for and applied. Call it between two steps; all
        members of a group do, at the same step.

        Returns:
            `weights`: the shared tensors by name; `own`: buffers of the model that are not shared; `worker`: steps,
            schedule and rule. All tensors are copies in host memory; `torch.load(weights_only=True)` reads it.

        Raises:
            RuntimeError: inside `shared_weights`.
        """
        return self._state.take()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` has returned, in this process or an earlier one.

        The model gets the weights of the state, the warm-up of a learning rate scale goes on where it was, and the next
        exchange comes after as many steps as it would have. What an exchange under way brings is dropped. The shared
        weights stay as they are: where they are not those of about the same time, `push` makes these weights the shared
        ones. All members of a group call it.

        Args:
            state: of an averager of the same model, rule and group size.

        Raises:
            ValueError: it is of another; the message says what differs, and nothing was changed.
        """
        self.worker.check_own_weights()
        self._state.load(state)
        self._loads.settled()

    def keep(self, **kept: Stateful) -> None:
        """Have something saved and loaded with this averager, when `modum run --resume` takes and loads checkpoints.

        The model, its optimizers and the random numbers of Python, NumPy and torch go along anyway. Call it before the
        loop over the samples: a resumed job loads all at its first batch.

        Args:
            **kept: schedulers, gradient scalers, averages of weights: whatever has `state_dict` and `load_state_dict`;
                by names that are the same in every run.

        Raises:
            TypeError: one has not.
            ValueError: a state has types that `torch.load(weights_only=True)` does not read.
        """
        self._checkpointed.keep(kept)

    def resume(self) -> int:
        """Load this worker's state, if the job was started by `modum run --resume` and goes on from a checkpoint.

        Loops over `share` and `indices` do so before their first batch. A loop of your own begins with
        `for step in range(averager.resume(), steps)`.

        Returns:
            Local steps taken so far; 0 in a job that begins anew.

        Raises:
            ValueError: the state is of another model, rule, or optimizer, or something else is kept with it.
            SnapshotError: a file is not what was written.
        """
        self._boundary.begin()
        return self.worker.steps

    def checkpoint(self) -> bool:
        """Say that a step is over, and take the checkpoint that is due under `modum run --resume`, if one is.

        Loops over `share` and `indices` do so after each batch that ended in a step. In a loop of your own, call it
        last, in all workers, once each of its schedulers has stepped as well.

        Returns:
            Whether one was taken. It waits until all workers, and the memory servers, have written theirs.

        Raises:
            ValueError: an optimizer's state could not be loaded again.
        """
        return self._boundary.between()

    def finish(self, timeout: float | Auto | None = "auto") -> None:
        """Do a last exchange, so that nothing learned here is lost, and wait until all other workers have done theirs.

        Afterwards the shared weights are final, unless `timeout` is None. All members of a group call this; no step may
        follow, also after an error.

        Args:
            timeout: seconds to wait for the others; "auto": as `Job.timeouts` say; None: do not wait.

        Raises:
            DeadlineError: other groups were still training after `timeout` seconds.
            RuntimeError: weights were loaded, and neither `push` nor `pull` has said what becomes of them.
        """
        try:
            if problem := self._loads.problem():
                raise RuntimeError(problem)
            self._pools.give_back()
            self.worker.finish(timeout, self._checkpointed.end)
        finally:
            self._hooks.close()  # restores the optimizer

    @contextmanager
    def shared_weights(self) -> Iterator[None]:
        """Give the model the shared weights inside the `with` block, and restore the worker's own afterwards.

        Use it to evaluate or save the model, in any one worker. No step is allowed inside. It allocates another copy
        of the model for that time.
        """
        with self.worker.shared_weights(), self.no_sync():
            yield

    def no_sync(self) -> AbstractContextManager[None]:
        """Accumulate gradients inside the `with` block without averaging them in the group.

        As `DistributedDataParallel.no_sync`, it saves traffic where several backward passes make one step; the first
        backward pass after it averages all that was accumulated. All members of a group leave out the same passes. In a
        group of one it does nothing.

        Returns:
            The context manager.
        """
        return nullcontext() if self._gradients is None else self._gradients.no_sync()

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
        """Leave the shared training: end the pending exchange and remove the optimizer's hooks.

        The model stays as it is.
        """
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # ---- what the optimizer calls

    def _before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        self.worker.check_own_weights()
        if problem := self._loads.problem():
            raise RuntimeError(problem)
        if self._gradients is None:
            return None
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._gradients.settle()
            return None
        return (args[0], self._averaged(closure, self._gradients)), {}

    def _problem(self) -> str | None:
        return self._optimizers.problem() or self._loads.problem()

    def _learning_rate_factor(self) -> float:
        return self.worker.learning_rate_factor

    def _after_step(self) -> None:
        self.worker.stepped()

    def _averaged(self, closure: Callable[[], Any], gradients: Gradients) -> Callable[[], Any]:
        """Return the closure of an optimizer that evaluates the loss itself, with the group's means."""

        def evaluate() -> Any:
            loss = torch.as_tensor(closure()).detach().clone()
            gradients.settle()
            self._group.reduce(loss)
            return loss

        return evaluate


def _reserve(tensors: Sequence[SharedTensor], name: str, stack: ExitStack) -> None:
    """Note until `stack` is closed that these tensors are shared.

    Raises:
        ValueError: one is shared already.
    """
    for shared in tensors:
        if (other := _SHARED.get(id(shared.tensor))) is not None:
            raise ValueError(
                f"{shared.name} is shared already, by the averager of {other!r} that was made before in this process: "
                "close that one first (averager.close(), or leave its `with` block), or go on with it"
            )
    numbers = dict.fromkeys((id(shared.tensor) for shared in tensors), name)
    _SHARED.update(numbers)
    stack.callback(lambda: [_SHARED.pop(number) for number in numbers])
