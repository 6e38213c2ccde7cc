"""Functions and classes that pycaffe scripts call, besides nets and solvers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch

from modum.caffe.layers.base import layer_types
from modum.caffe.proto import SolverParameter
from modum.caffe.prototxt import read_solver
from modum.caffe.solver import Solver

__all__ = [
    "AdaDeltaSolver",
    "AdaGradSolver",
    "AdamSolver",
    "NesterovSolver",
    "RMSPropSolver",
    "SGDSolver",
    "get_solver",
    "layer_type_list",
    "set_random_seed",
]


def get_solver(solver: str | Path) -> Solver:
    """Return the solver that a file defines, of its type."""
    return Solver(solver)


def set_random_seed(seed: int) -> None:
    """Seed all random numbers of nets created from now on."""
    torch.manual_seed(seed)


def layer_type_list() -> list[str]:
    """Return the names of all layer types."""
    return list(layer_types())


class _TypedSolver(Solver):
    """A solver of a fixed type, which overrides its file's."""

    kind: ClassVar[str]

    def __init__(self, solver: str | Path | SolverParameter, **options: Any) -> None:
        param = SolverParameter()
        param.CopyFrom(read_solver(solver) if isinstance(solver, str | Path) else solver)
        param.type = self.kind
        super().__init__(param, **options)


class SGDSolver(_TypedSolver):
    """A `Solver` that takes steps by SGD, whatever the definition says."""

    kind = "SGD"


class NesterovSolver(_TypedSolver):
    """A `Solver` that takes steps by Nesterov, whatever the definition says."""

    kind = "Nesterov"


class AdaGradSolver(_TypedSolver):
    """A `Solver` that takes steps by AdaGrad, whatever the definition says."""

    kind = "AdaGrad"


class RMSPropSolver(_TypedSolver):
    """A `Solver` that takes steps by RMSProp, whatever the definition says."""

    kind = "RMSProp"


class AdaDeltaSolver(_TypedSolver):
    """A `Solver` that takes steps by AdaDelta, whatever the definition says."""

    kind = "AdaDelta"


class AdamSolver(_TypedSolver):
    """A `Solver` that takes steps by Adam, whatever the definition says."""

    kind = "Adam"
