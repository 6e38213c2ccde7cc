"""Snapshots of a solver: the weights in one file, and the state that the solver needs to resume in another."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from modum.caffe.errors import CaffeError
from modum.caffe.proto import SolverParameter
from modum.caffe.state import read_state, write_state

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from modum.caffe.net import Net
    from modum.caffe.optimizers import Rule
    from modum.caffe.parameters import Parameters

__all__ = ["check_history", "check_prefix", "history_of", "load_history", "restore", "snapshot"]

_log = logging.getLogger(__name__)


def check_prefix(prefix: str) -> None:
    """Check that snapshots can be written, now and not after hours of training.

    Args:
        prefix: the solver's `snapshot_prefix`.

    Raises:
        CaffeError: they cannot.
    """
    directory = Path(prefix).absolute().parent
    probe = Path(f"{prefix}.tempfile")
    try:
        probe.touch()
        probe.unlink(missing_ok=True)  # another worker of this machine may have tried the same
    except OSError as error:
        hint = "" if directory.is_dir() else f"\nHINT: mkdir -p {directory}"
        raise CaffeError(f"cannot write snapshots: snapshot_prefix {prefix}: {error.strerror}{hint}") from None


def snapshot(
    net: Net, rule: Rule, parameters: Parameters, solver: SolverParameter, prefix: str, iteration: int, step: int
) -> tuple[Path, Path]:
    """Write `PREFIX_iter_N.caffemodel` and `.solverstate` (with `.h5` for HDF5), and return their paths."""
    hdf5 = solver.snapshot_format == SolverParameter.HDF5
    end, kind = (".h5", "HDF5") if hdf5 else ("", "binary proto")
    model = Path(f"{prefix}_iter_{iteration}.caffemodel{end}")
    state = Path(f"{prefix}_iter_{iteration}.solverstate{end}")
    _log.info("Snapshotting to %s file %s", kind, model)
    net.save(model, diff=solver.snapshot_diff)
    _log.info("Snapshotting solver state to %s file %s", kind, state)
    write_state(state, iteration, str(model), history_of(net, rule, parameters), step)
    return model, state


def history_of(net: Net, rule: Rule, parameters: Parameters) -> list[NDArray[np.float32]]:
    """Return one blob per parameter for every slot of the rule; zeros for parameters that do not learn."""
    learning = set(map(id, parameters.learnables))
    return [
        parameters.view(slot, learnable).cpu().numpy()
        if id(learnable) in learning
        else np.zeros(tuple(learnable.tensor.shape), np.float32)
        for slot in rule.history
        for learnable in net.learnables
    ]


def restore(net: Net, rule: Rule, parameters: Parameters, path: Path) -> tuple[int, int]:
    """Restore a snapshot, including the weights.

    Args:
        net: the net that gets the weights.
        rule: the rule that gets the history.
        parameters: the net's parameters.
        path: path of the state file.

    Returns:
        The iteration, and the policy's step.

    Raises:
        CaffeError: the state cannot be read, or belongs to another net or solver type.
    """
    state = read_state(path)
    check_history(net, rule, state.history, path)
    if state.learned_net:
        net.copy_from(_found(Path(state.learned_net), path))
    load_history(net, rule, parameters, state.history)
    return state.iteration, state.current_step


def check_history(net: Net, rule: Rule, history: Sequence[NDArray[np.floating]], origin: object) -> None:
    """Raise CaffeError unless a history is one of this net and rule.

    Args:
        net: the net.
        rule: the rule that is to get it.
        history: what `history_of` has returned.
        origin: where it comes from, for the error.
    """
    wanted = rule.slots * len(net.learnables)
    if len(history) != wanted:
        raise CaffeError(
            f"{origin} has {len(history)} blobs of history, but this solver needs {wanted}: "
            "is it the state of another net, or of another solver type?"
        )
    for array, learnable in zip(history, net.learnables * rule.slots, strict=True):
        shape = tuple(learnable.tensor.shape)
        if array.size != learnable.tensor.numel():
            raise CaffeError(
                f'{origin}: the history of blob {learnable.index} of layer "{learnable.layer}" has shape '
                f"{array.shape}, but the blob has {shape}"
            )


@torch.no_grad()
def load_history(net: Net, rule: Rule, parameters: Parameters, history: Sequence[NDArray[np.floating]]) -> None:
    """Put a history that `check_history` has checked into a rule."""
    learning = set(map(id, parameters.learnables))
    arrays = iter(history)
    for slot in rule.history:
        for learnable in net.learnables:
            array = next(arrays)
            if id(learnable) in learning:
                view = parameters.view(slot, learnable)
                view.copy_(torch.from_numpy(array.reshape(tuple(view.shape))))


def _found(model: Path, state: Path) -> Path:
    """Return the path of the weights: as the state says, or else beside the state, for moved snapshots."""
    beside = state.parent / model.name
    return beside if not model.exists() and beside.exists() else model
