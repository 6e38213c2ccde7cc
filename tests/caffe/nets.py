"""Small nets of the tests, from text."""

from pathlib import Path

from modum.caffe import TRAIN, Net, read_net, read_solver
from modum.caffe.proto import NetParameter, SolverParameter

CLASSIFIER = """
name: "small"
layer { name: "data" type: "DummyData" top: "data" top: "label"
  dummy_data_param { shape { dim: 6 dim: 2 dim: 4 dim: 4 } shape { dim: 6 }
    data_filler { type: "constant" value: 0.5 } data_filler { type: "constant" value: 1 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  param { lr_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
  convolution_param { num_output: 3 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
  inner_product_param { num_output: 4
    weight_filler { type: "gaussian" std: 0.1 } bias_filler { type: "constant" value: 0.1 } } }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy" include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
"""A net whose data are the same in every batch."""

LINEAR = """
name: "linear"
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y"
  inner_product_param { num_output: 2 bias_term: false weight_filler { type: "xavier" } } }
"""


def spec(text: str) -> NetParameter:
    """The net, as if it was the file net.prototxt."""
    return read_net("net.prototxt", text=text)


def net(text: str, phase: int = TRAIN, seed: int = 0) -> Net:
    """The net with the same first weights every time."""
    return Net(spec(text), phase, seed=seed)


def solver(fields: str, model: str = CLASSIFIER, directory: Path | None = None) -> SolverParameter:
    """A solver of the net, as if it was the file solver.prototxt; its snapshots go into the directory."""
    prefix = f'snapshot_prefix: "{directory / "snap"}"' if directory else "snapshot_after_train: false"
    text = f"{fields}\n{prefix}\nnet_param {{ {model} }}"
    return read_solver("solver.prototxt", text=f'random_seed: 1 lr_policy: "fixed" {text}')
