"""The front end for Caffe: nets, solvers and weights in Caffe's own files, computed by PyTorch.

Names are pycaffe's where they exist: `Net`, `NetSpec`, `Solver`, `io`, `TRAIN`, `TEST`, `set_mode_gpu` and so on.
"""

from modum.caffe import io, layers, params
from modum.caffe.classifier import Classifier, Detector
from modum.caffe.device import set_device, set_mode_cpu, set_mode_gpu
from modum.caffe.errors import CaffeError, ModelError
from modum.caffe.layers.base import layer_types
from modum.caffe.layers.python import UserLayer as Layer
from modum.caffe.net import Net
from modum.caffe.net_spec import NetSpec, to_proto
from modum.caffe.proto import TEST, TRAIN
from modum.caffe.prototxt import read_net, read_solver
from modum.caffe.pycaffe import (
    AdaDeltaSolver,
    AdaGradSolver,
    AdamSolver,
    NesterovSolver,
    RMSPropSolver,
    SGDSolver,
    get_solver,
    layer_type_list,
    set_random_seed,
)
from modum.caffe.solver import Solver

__all__ = [
    "TEST",
    "TRAIN",
    "AdaDeltaSolver",
    "AdaGradSolver",
    "AdamSolver",
    "CaffeError",
    "Classifier",
    "Detector",
    "Layer",
    "ModelError",
    "NesterovSolver",
    "Net",
    "NetSpec",
    "RMSPropSolver",
    "SGDSolver",
    "Solver",
    "get_solver",
    "io",
    "layer_type_list",
    "layer_types",
    "layers",
    "params",
    "read_net",
    "read_solver",
    "set_device",
    "set_mode_cpu",
    "set_mode_gpu",
    "set_random_seed",
    "to_proto",
]
