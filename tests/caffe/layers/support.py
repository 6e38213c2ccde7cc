"""Layers from text, and two ways to check them: finite differences, and OpenCV's reader of Caffe nets."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from modum.caffe.arrays import to_blob
from modum.caffe.layers import Layer, Shape, make_layer
from modum.caffe.proto import TEST, TRAIN, LayerParameter, NetParameter
from modum.caffe.prototxt import read_net

Array = NDArray[np.float64]

MODEST = 1e-5
"""How far single-precision results of two libraries may lie apart."""


def parse(kind: str, fields: str = "", bottoms: int = 1, tops: int = 1) -> LayerParameter:
    """A layer of a type, read from a net file of one line, called "tested"."""
    names = "".join(f' bottom: "b{index}"' for index in range(bottoms)) + "".join(
        f' top: "t{index}"' for index in range(tops)
    )
    net = read_net("net.prototxt", text=f'layer {{ name: "tested" type: "{kind}"{names} {fields} }}')
    layer: LayerParameter = net.layer[0]
    return layer


def make(kind: str, fields: str, *shapes: Shape, tops: int = 1, phase: int = TRAIN) -> tuple[Layer, list[Shape]]:
    """The layer, set up for bottoms of these shapes, with random parameters; and the shapes of its tops."""
    layer = make_layer(parse(kind, fields, len(shapes), tops), phase)
    generator = torch.Generator().manual_seed(0)
    top_shapes = layer.setup(shapes, generator)
    for blob in layer.blobs:
        if blob.requires_grad:
            blob.data.normal_(generator=generator)
    return layer, top_shapes


def compute(kind: str, fields: str, *bottoms: Tensor, tops: int = 1, phase: int = TRAIN) -> list[Tensor]:
    """What a new layer makes of these bottoms, after a check that the tops' shapes are those announced."""
    layer, shapes = make(kind, fields, *(tuple(bottom.shape) for bottom in bottoms), tops=tops, phase=phase)
    results = layer.to(bottoms[0].dtype)(*bottoms) if bottoms else layer()
    assert [tuple(result.shape) for result in results] == list(shapes)
    return list(results)


def random(*shape: int, low: float = -1.0, high: float = 1.0) -> Tensor:
    """Double precision numbers between two limits, no two the same or next to 0."""
    numbers = torch.linspace(low, high, torch.Size(shape).numel() + 2, dtype=torch.float64)[1:-1]
    return (numbers + (high - low) / 1e3)[torch.randperm(len(numbers))].reshape(shape)


def check_gradients(
    kind: str, fields: str, *bottoms: Tensor, tops: int = 1, differentiable: Sequence[int] = (0,)
) -> None:
    """Holds the gradients of some bottoms and of all parameters against finite differences, in double precision."""
    layer, _ = make(kind, fields, *(tuple(bottom.shape) for bottom in bottoms), tops=tops)
    layer.double()
    parameters = [blob for blob in layer.blobs if blob.requires_grad]
    leaves = [bottoms[index].clone().requires_grad_() for index in differentiable]

    def tops_of(*values: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(differentiable, values, strict=False))
        results = layer(*(given.get(index, bottom) for index, bottom in enumerate(bottoms)))
        return tuple(result for result in results if result.requires_grad)

    assert tops_of(*leaves), "no top has a gradient"
    assert torch.autograd.gradcheck(tops_of, (*leaves, *parameters))


def by_opencv(layer: Layer, bottoms: Sequence[Tensor]) -> Array:
    """What OpenCV computes from a layer's definition, blobs and bottoms. Skips the test where there is no OpenCV."""
    dnn = pytest.importorskip("cv2").dnn
    definition = NetParameter(name="net")
    for index, bottom in enumerate(bottoms):
        definition.input.append(f"b{index}")
        definition.input_shape.add().dim.extend(bottom.shape)
    definition.layer.add().CopyFrom(layer.spec)
    definition.layer[0].ClearField("modum_source")
    definition.layer[0].name = "t0"  # OpenCV finds results by the layer's name
    weights = NetParameter(name="net")
    weights.layer.add(name="t0", type=layer.spec.type)
    for blob in layer.blobs:
        to_blob(blob.detach().numpy(), weights.layer[0].blobs.add())
    files = (str(definition).encode(), weights.SerializeToString())
    net = dnn.readNetFromCaffe(*(np.frombuffer(file, np.uint8) for file in files))
    for index, bottom in enumerate(bottoms):
        net.setInput(bottom.float().numpy(), f"b{index}")
    return np.asarray(net.forward("t0"), np.float64)


def assert_like_opencv(kind: str, fields: str, *bottoms: Tensor) -> None:
    """Holds a layer's only top against OpenCV's, in TEST."""
    layer, _ = make(kind, fields, *(tuple(bottom.shape) for bottom in bottoms), phase=TEST)
    (result,) = layer(*(bottom.float() for bottom in bottoms))
    reference = by_opencv(layer, bottoms)
    assert tuple(result.shape) == reference.shape
    np.testing.assert_allclose(result.detach().numpy(), reference, rtol=MODEST, atol=MODEST)
