"""Layers with weights that do not slide, and arithmetic between blobs, against NumPy and OpenCV."""

import numpy as np
import pytest
import torch

from modum.caffe import ModelError
from modum.caffe.layers import make_layer
from modum.caffe.proto import TRAIN
from tests.caffe.layers.support import assert_like_opencv, check_gradients, compute, make, parse, random


@pytest.mark.parametrize("axis", [1, 2, -1, 0])
@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_inner_product(axis: int, transpose: bool, bias: bool) -> None:
    fields = (
        f"inner_product_param {{ num_output: 5 axis: {axis} transpose: {str(transpose).lower()} "
        f"bias_term: {str(bias).lower()} weight_filler {{ type: 'xavier' }} }}"
    )
    x = random(2, 3, 4)
    layer, shapes = make("InnerProduct", fields, (2, 3, 4))
    layer.double()
    rows = x.numpy().reshape(*x.shape[: axis % 3], -1)
    weights = layer.blobs[0].detach().numpy()
    assert weights.shape == ((rows.shape[-1], 5) if transpose else (5, rows.shape[-1]))
    expected = rows @ (weights if transpose else weights.T)
    if bias:
        expected = expected + layer.blobs[1].detach().numpy()
    assert shapes == [expected.shape]
    np.testing.assert_allclose(layer(x)[0].detach().numpy(), expected, atol=1e-12)
    check_gradients("InnerProduct", fields, x)


def test_inner_product_is_as_in_opencv() -> None:
    assert_like_opencv("InnerProduct", "inner_product_param { num_output: 5 }", random(3, 2, 4, 4))


def test_a_bottom_of_another_size_does_not_fit_the_weights() -> None:
    layer, _ = make("InnerProduct", "inner_product_param { num_output: 5 }", (2, 3, 4))
    assert layer.reshape([(7, 12)]) == [(7, 5)]
    with pytest.raises(ModelError, match="13 numbers from axis 1 on, but the weights are for 12"):
        layer.reshape([(2, 13)])


def test_embed_picks_rows() -> None:
    layer, shapes = make("Embed", "embed_param { num_output: 3 input_dim: 5 weight_filler { type: 'xavier' } }", (2, 4))
    indices = torch.tensor([[0, 4, 2, 2], [1, 3, 0, 0]])
    (top,) = layer(indices.float())
    table, bias = (blob.detach().numpy() for blob in layer.blobs)
    assert shapes == [(2, 4, 3)]
    np.testing.assert_allclose(top.detach().numpy(), table[indices.numpy()] + bias)
    assert not layer.needs_gradient(0)
    check_gradients("Embed", "embed_param { num_output: 3 input_dim: 5 }", indices.double(), differentiable=())


@pytest.mark.parametrize(
    ("fields", "operand"),
    [
        ("", (3,)),
        ("axis: 0", (2,)),
        ("axis: 0 num_axes: 2", (2, 3)),
        ("axis: -2 num_axes: -1", (4, 2)),
        ("axis: 1 num_axes: -1", (3, 4, 2)),
        ("num_axes: 0", ()),
    ],
)
def test_scale_and_bias_broadcast_from_their_axis(fields: str, operand: tuple[int, ...]) -> None:
    x = random(2, 3, 4, 2)
    first = 0 if "axis: 0" in fields.split("num")[0] else 2 if "-2" in fields else 1
    view = (*operand, *(1,) * (4 - first - len(operand))) if operand else ()
    for text in (fields, f"{fields} bias_term: true"):
        layer, shapes = make("Scale", f"scale_param {{ {text} }}", (2, 3, 4, 2))
        layer.double()
        assert [tuple(blob.shape) for blob in layer.blobs] == [operand] * len(layer.blobs)
        expected = x.numpy() * layer.blobs[0].detach().numpy().reshape(view)
        if "bias" in text:
            expected = expected + layer.blobs[1].detach().numpy().reshape(view)
        assert shapes == [(2, 3, 4, 2)]
        np.testing.assert_allclose(layer(x)[0].detach().numpy(), expected)
        check_gradients("Scale", f"scale_param {{ {text} }}", x)
    layer, _ = make("Bias", f"bias_param {{ {fields} }}", (2, 3, 4, 2))
    layer.double()
    expected = x.numpy() + layer.blobs[0].detach().numpy().reshape(view)
    np.testing.assert_allclose(layer(x)[0].detach().numpy(), expected)
    check_gradients("Bias", f"bias_param {{ {fields} }}", x)


def test_scale_and_bias_take_a_second_bottom() -> None:
    x, operand = random(2, 3, 4, 2), random(3, 4)
    expected = x.numpy() * operand.numpy()[:, :, None]
    np.testing.assert_allclose(compute("Scale", "", x, operand)[0].numpy(), expected)
    np.testing.assert_allclose(compute("Bias", "", x, operand)[0].numpy(), x.numpy() + operand.numpy()[:, :, None])
    layer, _ = make("Scale", "scale_param { bias_term: true }", (2, 3, 4, 2), (3, 4))
    layer.double()
    (bias,) = layer.blobs
    np.testing.assert_allclose(layer(x, operand)[0].detach(), expected + bias.detach().numpy()[:, :, None])
    check_gradients("Scale", "scale_param { bias_term: true }", x, operand, differentiable=(0, 1))
    check_gradients("Bias", "", x, operand, differentiable=(0, 1))


def test_new_scales_and_biases_change_nothing() -> None:
    x = random(2, 3).float()
    for kind, fields in ("Scale", "scale_param { bias_term: true }"), ("Bias", ""):
        layer = make_layer(parse(kind, fields), TRAIN)
        layer.setup([(2, 3)])
        assert torch.equal(layer(x)[0], x)


def test_scale_is_as_in_opencv() -> None:
    assert_like_opencv("Scale", "scale_param { bias_term: true }", random(2, 3, 4, 5))


@pytest.mark.parametrize("kind", ["Scale", "Bias"])
@pytest.mark.parametrize(
    ("fields", "shapes", "problem"),
    [
        ("axis: 4", [(2, 3)], "axis 4 is out of range"),
        ("num_axes: 2", [(2, 3)], "num_axes 2 from axis 1 on is out of range"),
        ("", [(2, 3), (4,)], r"shape \(4,\) is not that of \(2, 3\) from axis 1 on"),
    ],
)
def test_operands_must_fit(kind: str, fields: str, shapes: list[tuple[int, ...]], problem: str) -> None:
    with pytest.raises(ModelError, match=rf'^net\.prototxt:1: layer "tested": .*{problem}'):
        make(kind, f"{kind.lower()}_param {{ {fields} }}", *shapes)


ELTWISE = {
    "": lambda a, b, c: a + b + c,
    "operation: SUM coeff: 1 coeff: -0.5 coeff: 2": lambda a, b, c: a - 0.5 * b + 2 * c,
    "operation: SUM coeff: 0.25 coeff: 1 coeff: 1": lambda a, b, c: 0.25 * a + b + c,
    "operation: PROD": lambda a, b, c: a * b * c,
    "operation: MAX": lambda a, b, c: np.maximum(np.maximum(a, b), c),
}


@pytest.mark.parametrize("fields", ELTWISE)
def test_eltwise(fields: str) -> None:
    blobs = [random(2, 3, 2, 2, high=high) for high in (1.0, 1.1, 1.2)]
    (top,) = compute("Eltwise", f"eltwise_param {{ {fields} }}", *blobs)
    np.testing.assert_allclose(top.numpy(), ELTWISE[fields](*(blob.numpy() for blob in blobs)))
    check_gradients("Eltwise", f"eltwise_param {{ {fields} }}", *blobs, differentiable=(0, 1, 2))
    assert_like_opencv("Eltwise", f"eltwise_param {{ {fields} }}", *blobs)


def test_a_tie_of_maxima_goes_to_the_second_bottom_and_not_to_the_third() -> None:
    blobs = [torch.ones(2, requires_grad=True) for _ in range(3)]
    (top,) = compute("Eltwise", "eltwise_param { operation: MAX }", *blobs)
    assert [gradient.tolist() for gradient in torch.autograd.grad(top.sum(), blobs)] == [[0, 0], [1, 1], [0, 0]]


@pytest.mark.parametrize(
    ("fields", "second", "problem"),
    [
        ("", (2, 4), "must have the same shape"),
        ("coeff: 1", (2, 3), "2 bottoms want as many coeff, but there are 1"),
        ("operation: PROD coeff: 1 coeff: 1", (2, 3), "coeff is not for operation PROD"),
    ],
)
def test_mistakes_in_eltwise(fields: str, second: tuple[int, ...], problem: str) -> None:
    with pytest.raises(ModelError, match=rf'^net\.prototxt:1: layer "tested": .*{problem}'):
        make("Eltwise", f"eltwise_param {{ {fields} }}", (2, 3), second)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("coefficient", [1, 2.5])
def test_reductions(axis: int, coefficient: float) -> None:
    x = random(2, 3, 4)
    rows = x.numpy().reshape(*x.shape[: axis % 3], -1)
    for operation, expected in {
        "SUM": rows.sum(-1),
        "ASUM": np.abs(rows).sum(-1),
        "SUMSQ": (rows**2).sum(-1),
        "MEAN": rows.mean(-1),
    }.items():
        fields = f"reduction_param {{ operation: {operation} axis: {axis} coeff: {coefficient} }}"
        (top,) = compute("Reduction", fields, x)
        np.testing.assert_allclose(top.numpy(), coefficient * expected)
        check_gradients("Reduction", fields, x)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("shape", [(2, 5), (2, 3, 2, 2), (2, 2, 2, 2, 2)])
def test_arg_max_takes_the_last_of_equal_ones(ties: bool, shape: tuple[int, ...]) -> None:
    x = random(*shape)
    x = (x * 2).round() if ties else x
    rows = [
        sorted(((value, place) for place, value in enumerate(row)), reverse=True)[:2] for row in x.flatten(1).tolist()
    ]
    behind = (1,) * (len(shape) - 3)
    (places,) = compute("ArgMax", "argmax_param { top_k: 2 }", x)
    assert places.shape == (2, 1, 2, *behind)
    assert places.reshape(2, 2).tolist() == [[place for _, place in row] for row in rows]
    (both,) = compute("ArgMax", "argmax_param { top_k: 2 out_max_val: true }", x)
    assert both.shape == (2, 2, 2, *behind)
    assert both.reshape(2, 2, 2).tolist() == [
        [[place for _, place in row], [value for value, _ in row]] for row in rows
    ]


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_arg_max_along_an_axis(axis: int) -> None:
    x = random(2, 3, 4)
    (places,) = compute("ArgMax", f"argmax_param {{ axis: {axis} top_k: 2 }}", x)
    np.testing.assert_array_equal(places.numpy(), np.flip(x.numpy().argsort(axis), axis).take((0, 1), axis))
    (values,) = compute("ArgMax", f"argmax_param {{ axis: {axis} top_k: 2 out_max_val: true }}", x)
    np.testing.assert_array_equal(values.numpy(), np.flip(np.sort(x.numpy(), axis), axis).take((0, 1), axis))


def test_arg_max_cannot_give_more_than_there_is() -> None:
    with pytest.raises(ModelError, match=r"tested.*top_k \(4\) must be between 1 and 3"):
        make("ArgMax", "argmax_param { top_k: 4 axis: 1 }", (2, 3, 9))


def test_a_parameter_is_its_own_top() -> None:
    layer = make_layer(parse("Parameter", "parameter_param { shape { dim: 2 dim: 3 } }", bottoms=0), TRAIN)
    assert layer.setup([]) == [(2, 3)]
    (top,) = layer()
    assert top.tolist() == [[0] * 3] * 2
    assert torch.autograd.grad(top.sum(), layer.blobs[0])[0].tolist() == [[1] * 3] * 2
