"""A Caffe solver: trains a net, tests it and takes snapshots at the iterations that its file sets."""

from __future__ import annotations

import logging
import time
from collections import deque
from contextlib import ExitStack, nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch

from modum.caffe import snapshot as snapshots
from modum.caffe.errors import MissingFileError, ModelError, where
from modum.caffe.log import output_line
from modum.caffe.net import Net
from modum.caffe.optimizers import make_rule
from modum.caffe.parameters import Parameters
from modum.caffe.policy import Policy
from modum.caffe.proto import TEST, TRAIN, NetParameter, NetState, SolverParameter
from modum.caffe.prototxt import read_net, read_solver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from torch import Tensor

    from modum.averaging import Reaction, Scale
    from modum.caffe.sharing import Sharing
    from modum.job import Job
    from modum.rules import UpdateRule

__all__ = ["Action", "Solver"]

_log = logging.getLogger(__name__)


class Action(StrEnum):
    """What a solver is asked to do between two iterations, for example by a signal."""

    NONE = "none"
    STOP = "stop"
    SNAPSHOT = "snapshot"


class Solver:
    """Trains a net as a solver file says.

        solver = Solver("solver.prototxt")
        solver.step(100)
        print(solver.net.blobs["loss"].data, solver.net.params["conv1"][0].data)
        solver.solve()

    With a job, it is one worker's part in training a model with all workers:

        with modum.connect() as job, Solver("solver.prototxt", job=job) as solver:
            solver.solve()

    Args:
        solver: a prototxt file, or the message read from one. Paths in it are relative to the current
            directory, as in Caffe.
        job: from `modum.connect`; None: this solver trains alone. See `Sharing` for what a job means.
        rule: with a job, how the weights of all workers move together; None: elastic averaging between groups, with the
            `moving_rate` and `update_interval` of the solver's file, or else automatic ones.
        name: with a job, the name of the shared model in the box.
        learning_rate_scale: with a job, see `LearningRateScale`.
        on_nonfinite: with a job, what happens where this worker's weights have NaN or infinity when they are to be
            exchanged, which they then are not. "restore": it takes the shared ones; "raise": `NotFiniteError`.
        resume: a snapshot (`.solverstate` or `.solverstate.h5`) to resume from; with a job, every worker takes its
            weights and its history.
        stages: stages to add to the state of the train net.
        level: level to add to the state of the train net.
        weights: files of initial weights, besides those that the solver names.
        device: where the nets compute.
        tests: whether to create the test nets.
        asked: called after every iteration; returns what the solver is asked to do, for example by a signal.

    Raises:
        ModelError: the solver or one of the nets is not valid.
        MismatchError: the net or the settings differ from the first worker's.
    """

    def __init__(
        self,
        solver: str | Path | SolverParameter,
        *,
        job: Job | None = None,
        rule: UpdateRule | None = None,
        name: str = "caffe",
        learning_rate_scale: Scale = "auto",
        on_nonfinite: Reaction = "restore",
        resume: str | Path | None = None,
        stages: Iterable[str] = (),
        level: int | None = None,
        weights: Iterable[str | Path] = (),
        device: torch.device | str | None = None,
        tests: bool = True,
        asked: Callable[[], Action] = lambda: Action.NONE,
    ) -> None:
        param = read_solver(solver) if isinstance(solver, str | Path) else solver
        self.param: SolverParameter = param
        self.asked = asked
        self.iter = 0
        """Iterations done."""
        if param.random_seed >= 0:
            torch.manual_seed(param.random_seed)
        self._check()
        self.policy = Policy(param)
        state = NetState()
        state.CopyFrom(param.train_state)
        state.stage.extend(stages)
        if level is not None:
            state.level = level
        spec = _in_state(self._train_spec(), TRAIN, state)
        self._sharing: Sharing | None = None
        if job is not None:
            from modum.caffe.sharing import Sharing as Part

            self._sharing = Part(
                job, rule, param, name=name, learning_rate_scale=learning_rate_scale, on_nonfinite=on_nonfinite
            )
            spec = self._sharing.own_part(spec)
        fuse = not param.debug_info
        self.net = Net(spec, TRAIN, device=device, fuse=fuse)
        self.test_nets: list[Net] = []
        if tests and (self._sharing is None or self._sharing.first):
            self.test_nets = [
                Net(_in_state(one, TEST, state), TEST, device=device, fuse=fuse) for one, state in self._test_specs()
            ]
        self.parameters = Parameters(self.net.learnables)
        self.rule = make_rule(param, self.parameters)
        for file in (*param.weights, *weights):
            for one in str(file).split(","):
                self.net.copy_from(one.strip())
        self._prefix = str(param.snapshot_prefix or "snapshot")
        if param.snapshot:
            snapshots.check_prefix(self._prefix)
        self.losses: deque[Tensor] = deque(maxlen=max(1, param.average_loss))
        """Of the last `average_loss` iterations."""
        self.stopped = False
        self.passed = 1
        """Iterations from the previous one to this one: more than 1 if other workers do some."""
        self.displayed = (time.perf_counter(), 0)
        self.progress: Callable[[int, int], None] = lambda iteration, last: None
        """Called after every iteration with its number and `max_iter`."""
        if resume is not None:
            self.restore(resume)
        if self._sharing is not None:
            self._sharing.join(self)

    # -- pycaffe's interface

    def step(self, iterations: int) -> None:
        """Do `iterations` iterations, with the tests, snapshots and log lines that fall due.

        With a job, take part until all workers together have done that many from where the job began.
        """
        if self._sharing is not None:
            self._sharing.step(iterations)
            return
        last = self.iter + iterations
        self.stopped = False
        self.losses.clear()
        self.displayed = (time.perf_counter(), self.iter)
        while self.iter < last and not self.stopped:
            if self.due(self.param.test_interval) and (self.iter > 0 or self.param.test_initialization):
                self.test_all()
                if self.stopped:
                    break
            self.iterate()
            action = self.asked()
            self.iter += 1
            if self.due(self.param.snapshot) or action is Action.SNAPSHOT:
                self.snapshot()
            self.progress(self.iter, max(self.param.max_iter, last))
            if action is Action.STOP:
                self.stopped = True

    def solve(self, resume: str | Path | None = None) -> None:
        """Train until `max_iter`.

        Args:
            resume: a snapshot's state to resume from; None: continue from this solver's state.

        Raises:
            ValueError: `resume` is given to a solver with a job, whose weights are already shared.
            CaffeError: the state cannot be read, or belongs to another net or solver type.
        """
        param = self.param
        if self._sharing is not None:
            if resume is not None:
                raise ValueError(f"solve(resume={str(resume)!r}) comes too late in a job: give Solver(..., resume=...)")
            self._sharing.announce()
        _log.info("Solving %s", self.net.name)
        _log.info("Learning Rate Policy: %s", param.lr_policy)
        if resume is not None:
            self.restore(resume)
        self.step(param.max_iter - self.iter)
        self.finish()

    def finish(self) -> None:
        """Do the work after the last iteration: a snapshot, the loss, a test. In a job, the first worker does it."""
        param = self.param
        if self._sharing is not None and not self._sharing.finish():
            return
        if param.snapshot_after_train and not (param.snapshot and self.iter % param.snapshot == 0):
            self.snapshot()
        if self.stopped:
            _log.info("Optimization stopped early.")
            return
        if self.due(param.display):
            with torch.no_grad():
                self.losses.append(self.net.compute())
            _log.info("Iteration %d, loss = %g", self.iter, self.smoothed_loss)
        if self.due(param.test_interval):
            self.test_all()
        _log.info("Optimization Done.")

    def snapshot(self) -> tuple[Path, Path]:
        """Write the weights and the solver's state, and return the paths of the two files.

        In a job these are the shared weights, and the history is this worker's. Only the first worker calls it.
        """
        with ExitStack() as stack:
            if self._sharing is not None:
                stack.enter_context(self._sharing.snapshot_number())
                stack.enter_context(self._sharing.shared_weights())
            step = self.policy.current_step
            return snapshots.snapshot(self.net, self.rule, self.parameters, self.param, self._prefix, self.iter, step)

    def restore(self, path: str | Path) -> None:
        """Restore the state of a snapshot, its weights included.

        Args:
            path: the state (`.solverstate` or `.solverstate.h5`).

        Raises:
            CaffeError: it cannot be read, or belongs to another net or solver type.
        """
        _log.info("Restoring previous solver status from %s", path)
        self.iter, self.policy.current_step = snapshots.restore(self.net, self.rule, self.parameters, Path(path))

    # -- one iteration

    def iterate(self) -> None:
        """Do the forward and backward passes, `iter_size` of them, and the update of one iteration."""
        self.forward_backward()
        self.apply_update(self.iter)

    def forward_backward(self) -> Tensor:
        """Compute the gradients of one iteration into `parameters.gradient`, and record and return the loss."""
        param = self.param
        display = self.due(param.display)
        if param.debug_info:
            self.net.debug_info(on=display)
        self.parameters.gradient.zero_()
        loss = self.net.forward_backward()
        for _ in range(1, param.iter_size):
            loss = loss + self.net.forward_backward()
        loss = loss / param.iter_size if param.iter_size > 1 else loss
        self.losses.append(loss)
        if display:
            self._display()
        return loss

    def apply_update(self, iteration: int, step: int | None = None) -> None:
        """Move the weights by the gradients, at the learning rate of `iteration`.

        `step` counts the updates of these weights, if that number differs: Adam corrects its means by it.
        """
        param = self.param
        rate = self._rate(iteration)
        if self.due(param.display):
            _log.info("Iteration %d, lr = %g", self.label(param.display), rate)
        if param.clip_gradients >= 0:
            self._clip()
        if param.iter_size > 1:
            self.parameters.gradient.mul_(1.0 / param.iter_size)
        self.rule.apply(rate, iteration if step is None else step)
        self.net.log_update(self.parameters)

    @property
    def smoothed_loss(self) -> float:
        """Mean of the last `average_loss` losses; 0 before the first."""
        return float(sum(float(loss) for loss in self.losses)) / max(1, len(self.losses))

    def test_all(self) -> None:
        """Run all test nets and log their mean outputs; in a job, with the shared weights."""
        with nullcontext() if self._sharing is None else self._sharing.shared_weights():
            for index in range(len(self.test_nets)):
                if self.stopped:
                    return
                self.test(index)

    def test(self, index: int = 0) -> dict[str, float]:
        """Run a test net over its `test_iter` batches, and log and return the mean of each of its outputs.

        An output of several numbers is returned as `name[i]`.
        """
        net, param = self.test_nets[index], self.param
        number = self.label(param.test_interval) if param.test_interval else self.iter
        _log.info("Iteration %d, Testing net (#%d)", number, index)
        net.share_with(self.net)
        sums: list[Tensor] = []
        loss = torch.zeros((), dtype=torch.float64)
        batches = param.test_iter[index]
        for _ in range(batches):
            action = self.asked()
            if action is Action.SNAPSHOT:
                self.snapshot()
            elif action is Action.STOP:
                self.stopped = True
                _log.info("Test interrupted.")
                return {}
            loss = loss + net.compute().cpu()
            outputs = [value.double().flatten() for _, _, value in net.output_values()]
            sums = [a + b for a, b in zip(sums, outputs, strict=True)] if sums else outputs
        if param.test_compute_loss:
            _log.info("Test loss: %g", float(loss) / batches)
        means: dict[str, float] = {}
        for (name, weight, _), total in zip(net.output_values(), sums, strict=True):
            values = (total / batches).tolist()
            for position, value in enumerate(values):
                _log.info("%s", output_line("Test", len(means), name, value, weight))
                means[name if len(values) == 1 else f"{name}[{position}]"] = value
        return means

    def close(self) -> None:
        """Leave the job, end the threads and close the files of all nets."""
        try:
            if self._sharing is not None:
                self._sharing.close()
        finally:
            for net in (self.net, *self.test_nets):
                net.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # -- the parts

    def due(self, interval: int) -> bool:
        """Return whether an action that recurs every `interval` iterations is due now."""
        return interval > 0 and self.iter // interval > (self.iter - self.passed) // interval

    def label(self, interval: int) -> int:
        """Return the iteration for which it is due: this one, or the last multiple that other workers have done."""
        return self.iter // interval * interval

    def _rate(self, iteration: int) -> float:
        """Return the learning rate of an iteration."""
        rate = self.policy.rate(iteration)
        return rate if self._sharing is None else rate * self._sharing.learning_rate_factor

    def _display(self) -> None:
        param = self.param
        (start, before), now = self.displayed, time.perf_counter()
        seconds = now - start
        number = self.label(param.display)
        _log.info(
            "Iteration %d (%g iter/s, %gs/%d iters), loss = %g",
            *(number, (number - before) / (seconds or 1), seconds, param.display, self.smoothed_loss),
        )
        self.displayed = (now, number)
        index = 0
        for name, weight, values in self.net.output_values():
            for value in values.flatten().tolist():
                _log.info("%s", output_line("Train", index, name, value, weight))
                index += 1

    def _clip(self) -> None:
        limit = self.param.clip_gradients
        norm = float(self.parameters.gradient.norm())
        if norm > limit:
            factor = limit / norm
            _log.info(
                "Gradient clipping: scaling down gradients (L2 norm %g > %g) by scale factor %g", norm, limit, factor
            )
            self.parameters.gradient.mul_(factor)

    # -- the nets

    def _check(self) -> None:
        param = self.param
        sources = ("net", "net_param", "train_net", "train_net_param")
        given = [name for name in sources if param.HasField(name)]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ModelError.at(param, f"exactly one of {', '.join(sources)} gives the train net, but there is {found}")
        for name, least in (("max_iter", 0), ("iter_size", 1), ("average_loss", 1), ("display", 0), ("snapshot", 0)):
            if (value := getattr(param, name)) < least:
                raise ModelError.at(param, f"{name} ({value}) must be at least {least}", name)

    def _train_spec(self) -> NetParameter:
        param = self.param
        inside: NetParameter
        for inside, name in ((param.train_net_param, "train_net_param"), (param.net_param, "net_param")):
            if param.HasField(name):
                return inside
        return self._read("train_net" if param.train_net else "net")

    def _read(self, field: str, index: int = 0) -> NetParameter:
        """Return the net in the file that a field names."""
        name = getattr(self.param, field)
        try:
            return read_net(Path(name if isinstance(name, str) else name[index]))
        except MissingFileError as error:
            place = where(self.param, field, index)
            hint = f"\nHINT: paths count from the current directory, {Path.cwd()}"
            raise MissingFileError(f"{place}: {field}: {error}{hint}") from None

    def _test_specs(self) -> list[tuple[NetParameter, NetState]]:
        """Return the nets to test, each with its state: those given for testing, then the common one."""
        param = self.param
        files = [self._read("test_net", index) for index in range(len(param.test_net))]
        specs: list[NetParameter] = [*param.test_net_param, *files]
        common = param.HasField("net_param") or param.HasField("net")
        wanted = len(param.test_iter)
        if wanted < len(specs) or (wanted != len(specs) and not common):
            raise ModelError.at(param, f"{wanted} test_iter for {len(specs)} test nets: give one for each", "test_iter")
        if wanted > len(specs):
            specs += [self._train_spec()] * (wanted - len(specs))
        if len(param.test_state) not in (0, wanted):
            problem = f"{len(param.test_state)} test_state for {wanted} test nets: give none, or one for each"
            raise ModelError.at(param, problem, "test_state")
        if wanted and param.test_interval <= 0:
            raise ModelError.at(param, "test_iter needs a test_interval of at least 1", "test_iter")
        if any(number < 1 for number in param.test_iter):
            numbers = ", ".join(map(str, param.test_iter))
            raise ModelError.at(param, f"test_iter ({numbers}) must be at least 1", "test_iter")
        states = list(param.test_state) or [NetState()] * wanted
        return list(zip(specs, states, strict=True))


def _in_state(spec: NetParameter, phase: int, state: NetState) -> NetParameter:
    """Return the net with a state merged from the phase, the net's own, and the solver's."""
    merged = NetState()
    merged.phase = phase
    merged.MergeFrom(spec.state)
    merged.MergeFrom(state)
    copy = NetParameter()
    copy.CopyFrom(spec)
    copy.state.CopyFrom(merged)
    return copy
