"""Caffe's layers: each a `torch.nn.Module`, found by the name that net files have for it.

Data layers are in `modum.caffe.data`; `layer_types` has them too.
"""

from modum.caffe.layers import (  # each registers its layers
    activation,
    common,
    convolution,
    loss,
    normalization,
    pooling,
    python,
    recurrent,
    shape,
)
from modum.caffe.layers.base import Layer, Shape, layer_types, make_layer, register

__all__ = [
    "Layer",
    "Shape",
    "activation",
    "common",
    "convolution",
    "layer_types",
    "loss",
    "make_layer",
    "normalization",
    "pooling",
    "python",
    "recurrent",
    "register",
    "shape",
]
