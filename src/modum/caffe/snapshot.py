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
    from numpy.typing import NDArray

    from modum.caffe.net import Net
    from modum.caffe.optimizers import Rule
    from modum.caffe.parameters import Parameters

__all__ = ["check_prefix", "restore", "snapshot"]

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
    write_state(state, iteration, str(model), _history(net, rule, parameters), step)
    return model, state


def _history(net: Net, rule: Rule, parameters: Parameters) -> list[NDArray[np.float32]]:
    """Return one blob per parameter for every slot of the rule; zeros for parameters that do not learn."""
    learning = set(map(id, parameters.learnables))
    return [
        parameters.view(slot, learnable).cpu().numpy()
        if id(learnable) in learning
        else np.zeros(tuple(learnable.tensor.shape), np.float32)
        for slot in rule.history
        for learnable in net.learnables
    ]


@torch.no_grad()
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
    wanted = rule.slots * len(net.learnables)
    if len(state.history) != wanted:
        raise CaffeError(
            f"{path} has {len(state.history)} blobs of history, but this solver needs {wanted}: "
            "is it the state of another net, or of another solver type?"
        )
    if state.learned_net:
        net.copy_from(_found(Path(state.learned_net), path))
    learning = set(map(id, parameters.learnables))
    arrays = iter(state.history)
    for slot in rule.history:
        for learnable in net.learnables:
            array = next(arrays)
            shape = tuple(learnable.tensor.shape)
            if array.size != learnable.tensor.numel():
                raise CaffeError(
                    f'{path}: the history of blob {learnable.index} of layer "{learnable.layer}" has shape '
                    f"{array.shape}, but the blob has {shape}"
                )
            if id(learnable) in learning:
                parameters.view(slot, learnable).copy_(torch.from_numpy(array.reshape(shape)))
    return state.iteration, state.current_step


def _found(model: Path, state: Path) -> Path:
    """Return the path of the weights: as the state says, or else beside the state, for moved snapshots."""
    beside = state.parent / model.name
    return beside if not model.exists() and beside.exists() else model
