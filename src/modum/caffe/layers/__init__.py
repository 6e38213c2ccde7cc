"""Caffe's layers: each is a `torch.nn.Module`, found by its name in net files.

Data layers are in `modum.caffe.data`; `layer_types` has them too.

As in pycaffe, `layers.Convolution(...)`, and likewise every other type, makes a layer of a `NetSpec`.
"""

from collections.abc import Callable
from typing import Any

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


def __getattr__(name: str) -> Callable[..., Any]:
    if name[:1] == "_" or name not in layer_types():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}, and Caffe no such layer type")
    from modum.caffe.net_spec import layer_function

    return layer_function(name)
