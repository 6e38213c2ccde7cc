"""The front end for Caffe: nets, solvers and weights as their files are, computed by PyTorch.

The names are pycaffe's where it has them: `Net`, `Solver`, `TRAIN`, `TEST`, `set_mode_gpu` and so on.
"""

from modum.caffe.device import set_device, set_mode_cpu, set_mode_gpu
from modum.caffe.errors import CaffeError, ModelError
from modum.caffe.layers.base import layer_types
from modum.caffe.net import Net
from modum.caffe.proto import TEST, TRAIN
from modum.caffe.prototxt import read_net, read_solver
from modum.caffe.solver import Solver

__all__ = [
    "TEST",
    "TRAIN",
    "CaffeError",
    "ModelError",
    "Net",
    "Solver",
    "layer_types",
    "read_net",
    "read_solver",
    "set_device",
    "set_mode_cpu",
    "set_mode_gpu",
]
