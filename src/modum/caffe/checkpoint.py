"""What a solver adds to its worker's state in the checkpoints of a job."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from modum.caffe import snapshot as snapshots
from modum.checkpoints.worker import Part
from modum.torch.checkpoint import add_random, read, written
from modum.torch.state import AveragerState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modum.averaging import Worker
    from modum.caffe.graph import Step
    from modum.caffe.solver import Solver
    from modum.job import Job
    from modum.torch.flat import SharedTensor

__all__ = ["Checkpointed"]


class Checkpointed:
    """A solver's weights, history and iteration, where its layers are in their data, and torch's random numbers.

    Args:
        job: whose checkpoints these are a part of.
        name: of the shared model.
        solver: the solver.
        shared: its shared tensors.
        worker: its part in sharing them.

    Attributes:
        iteration: the job's iteration that this worker has done last; None: it has done none.
    """

    def __init__(self, job: Job, name: str, solver: Solver, shared: Sequence[SharedTensor], worker: Worker) -> None:
        self.iteration: int | None = None
        self._checkpoints = job.checkpoints
        self._name = f"solver {name}"
        self._solver = solver
        self._state = AveragerState(shared, {}, worker)
        self._start = solver.iter
        add_random(self._checkpoints)
        self._checkpoints.add(self._name, Part(take=self._take, load=self._load))

    def end(self) -> None:
        """Note that all of it is as it will stay."""
        self._checkpoints.end(self._name)

    def _take(self) -> bytes:
        solver = self._solver
        averager = self._state.take()
        history = snapshots.history_of(solver.net, solver.rule, solver.parameters)
        state = {
            "averager": averager,
            "history": [torch.from_numpy(array) for array in history],
            "start": self._start,
            "iteration": self.iteration,
            "step": solver.policy.current_step,
            "losses": [loss.cpu() for loss in solver.losses],
            "places": [step.layer.place() for step in self._steps()],
            "layers": [step.layer.name for step in self._steps()],
        }
        return written(state)

    def _load(self, data: bytes) -> None:
        solver, state = self._solver, read(data)
        if state["start"] != self._start:
            raise ValueError(
                f"the checkpoint is of a job that began at iteration {state['start']}, and this one begins at"
                f" {self._start}\nHINT: give the same --snapshot as before; --resume brings the later iterations"
            )
        if state["layers"] != [step.layer.name for step in self._steps()]:
            raise ValueError(
                f"the checkpoint is of nets with the layers {', '.join(state['layers'])}, and these have others"
                "\nHINT: give the net files that it was made with, or name another folder"
            )
        history = [tensor.numpy() for tensor in state["history"]]
        snapshots.check_history(solver.net, solver.rule, history, "the checkpoint")
        self._state.load(state["averager"])
        snapshots.load_history(solver.net, solver.rule, solver.parameters, history)
        self.iteration, solver.policy.current_step = state["iteration"], state["step"]
        solver.losses.extend(loss.to(solver.net.device) for loss in state["losses"])
        for step, place in zip(self._steps(), state["places"], strict=True):
            step.layer.go_on(place)

    def _steps(self) -> list[Step]:
        return [step for net in (self._solver.net, *self._solver.test_nets) for step in net.steps]
