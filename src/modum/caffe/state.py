"""Read and write the state of a solver between two runs, as Caffe does: `.solverstate`, and `.solverstate.h5`.

A binary file is a SolverState. An HDF5 file has the datasets `/iter`, `/current_step`, `/learned_net` and, for each
array of the solver's history, `/history/INDEX`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike

import h5py
import numpy as np
from numpy.typing import NDArray

from modum.caffe.arrays import from_blob, is_hdf5, open_hdf5, parse_file, replace_file, to_blob, write_message
from modum.caffe.errors import CaffeError
from modum.caffe.proto import SolverState

__all__ = ["State", "read_state", "write_state"]


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The state from which a solver resumes.

    Attributes:
        iteration: number of iterations done.
        learned_net: path of the file with the weights.
        history: the solver's arrays in Caffe's order: one for each parameter, then, for AdaDelta and Adam, a second one
            for each.
        current_step: number of steps that the policies step and multistep have taken.
    """

    iteration: int
    learned_net: str
    current_step: int
    history: Sequence[NDArray[np.floating]]


def read_state(path: str | PathLike[str]) -> State:
    """Read a state from a file.

    Args:
        path: path of the file, binary or HDF5.

    Returns:
        The state.

    Raises:
        CaffeError: the file cannot be read, or is not a solver's state.
    """
    if not is_hdf5(path):
        state = parse_file(SolverState(), path)
        if not state.HasField("iter"):
            raise CaffeError(f"{path}: is not a solver's state: it has no iter")
        return State(
            iteration=state.iter,
            learned_net=state.learned_net,
            current_step=state.current_step,
            history=[from_blob(blob, path) for blob in state.history],
        )
    with open_hdf5(path) as file:
        missing = [name for name in ("iter", "current_step", "history") if name not in file]
        if missing:
            raise CaffeError(f"{path}: is not a solver's state: it has no /{missing[0]}")
        history = file["history"]
        return State(
            iteration=int(np.asarray(file["iter"]).item()),
            learned_net=np.asarray(file["learned_net"]).item().decode() if "learned_net" in file else "",
            current_step=int(np.asarray(file["current_step"]).item()),
            history=[np.asarray(history[key]) for key in sorted(history, key=int)],
        )


def write_state(
    path: str | PathLike[str],
    iteration: int,
    learned_net: str,
    history: Sequence[NDArray[np.floating]],
    current_step: int = 0,
) -> None:
    """Write a state to a file, which appears only once it is complete.

    Args:
        path: path of the file; HDF5 if it ends in `.h5`.
        iteration: see `State`.
        learned_net: see `State`.
        history: see `State`.
        current_step: see `State`.

    Raises:
        CaffeError: a binary file would be too large.
        OSError: it cannot be written.
    """
    if not str(path).endswith(".h5"):
        message = SolverState(iter=iteration, learned_net=learned_net, current_step=current_step)
        for array in history:
            to_blob(array, message.history.add())
        write_message(message, path)
        return
    name = learned_net.encode()
    with replace_file(path) as temporary, h5py.File(temporary, "w") as file:
        file.create_dataset("iter", data=np.array([iteration], np.int32))
        # One byte more than the name: Caffe reads the bytes as a C string.
        file.create_dataset("learned_net", data=np.array(name, f"S{len(name) + 1}"))
        file.create_dataset("current_step", data=np.array([current_step], np.int32))
        group = file.create_group("history")
        for index, array in enumerate(history):
            group.create_dataset(str(index), data=array)
