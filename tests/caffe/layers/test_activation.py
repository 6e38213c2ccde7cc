"""Element by element layers and Softmax against NumPy and OpenCV, their gradients, and their corners."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from modum.caffe import TEST, ModelError
from modum.caffe.layers import make_layer
from tests.caffe.layers.support import Array, assert_like_opencv, check_gradients, compute, make, parse, random


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


FORMULAS: dict[str, tuple[str, Callable[[Array], NDArray[np.floating]]]] = {
    "ReLU": ("", lambda x: np.maximum(x, 0)),
    "ReLU slope": ("relu_param { negative_slope: 0.25 }", lambda x: np.where(x > 0, x, 0.25 * x)),
    "ELU": ("elu_param { alpha: 0.5 }", lambda x: np.where(x > 0, x, 0.5 * (np.exp(x) - 1))),
    "Swish": ("", lambda x: x * sigmoid(x)),
    "Swish beta": ("swish_param { beta: 1.5 }", lambda x: x * sigmoid(1.5 * x)),
    "Sigmoid": ("", sigmoid),
    "TanH": ("", np.tanh),
    "AbsVal": ("", np.abs),
    "BNLL": ("", lambda x: np.log(1 + np.exp(x))),
    "Power": ("power_param { power: 3 scale: 0.5 shift: 2 }", lambda x: (2 + 0.5 * x) ** 3),
    "Power 1": ("power_param { scale: 0.5 shift: 2 }", lambda x: 2 + 0.5 * x),
    "Power 0": ("power_param { power: 0 }", np.ones_like),
    "Power of constant": ("power_param { power: 2 scale: 0 shift: 3 }", lambda x: np.full_like(x, 9)),
    "Exp": ("", np.exp),
    "Exp base": ("exp_param { base: 2 scale: 0.5 shift: 3 }", lambda x: 2 ** (3 + 0.5 * x)),
    "Log": ("log_param { shift: 5 }", lambda x: np.log(5 + x)),
    "Log base": ("log_param { base: 2 scale: 0.5 shift: 5 }", lambda x: np.log2(5 + 0.5 * x)),
    "Threshold": ("threshold_param { threshold: 0.5 }", lambda x: (x > 0.5) * 1.0),
    "Clip": ("clip_param { min: -1 max: 2 }", lambda x: np.minimum(np.maximum(x, -1), 2)),
}
BY_OPENCV = ["ReLU", "ReLU slope", "ELU", "Swish", "Sigmoid", "TanH", "AbsVal", "BNLL", "Power", "Exp base"]


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (7,), (2, 3, 2, 2, 2)])
def test_formulas(name: str, shape: tuple[int, ...]) -> None:
    fields, formula = FORMULAS[name]
    x = random(*shape, low=-3, high=3)
    np.testing.assert_allclose(compute(name.split()[0], fields, x)[0].numpy(), formula(x.numpy()), atol=1e-12)


@pytest.mark.parametrize("name", [name for name in FORMULAS if name not in ("Threshold", "Power 0")])
def test_gradients(name: str) -> None:
    check_gradients(name.split()[0], FORMULAS[name][0], random(2, 3, 2, 2, low=-3, high=3))


@pytest.mark.parametrize("name", BY_OPENCV)
def test_they_are_as_in_opencv(name: str) -> None:
    assert_like_opencv(name.split()[0], FORMULAS[name][0], random(2, 3, 4, 5, low=-3, high=3))


@pytest.mark.parametrize(
    ("kind", "fields", "corner", "slope"),
    [
        ("ReLU", "", 0.0, 0.0),
        ("ReLU", "relu_param { negative_slope: 0.25 }", 0.0, 0.25),
        ("ELU", "elu_param { alpha: 0.5 }", 0.0, 0.5),
        ("AbsVal", "", 0.0, 0.0),
        ("Clip", "clip_param { min: -1 max: 2 }", -1.0, 1.0),
        ("Clip", "clip_param { min: -1 max: 2 }", 2.0, 1.0),
    ],
)
def test_corners_have_the_slope_of_caffe(kind: str, fields: str, corner: float, slope: float) -> None:
    x = torch.full((3,), corner, requires_grad=True)
    assert torch.autograd.grad(compute(kind, fields, x)[0].sum(), x)[0].tolist() == [slope] * 3


def test_large_numbers_do_not_overflow() -> None:
    x = torch.tensor([-1000.0, 1000.0], requires_grad=True)
    (y,) = compute("BNLL", "", x)
    assert y.tolist() == [0, 1000]
    assert torch.autograd.grad(y.sum(), x)[0].tolist() == [0, 1]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("shape", [(2, 3, 4, 2), (4, 3)])
def test_prelu(shared: bool, shape: tuple[int, ...]) -> None:
    fields = f"prelu_param {{ channel_shared: {str(shared).lower()} }}"
    layer, _ = make("PReLU", fields, shape)
    layer.double()
    x = random(*shape)
    slopes = layer.blobs[0].detach().numpy()
    assert slopes.shape == (() if shared else (3,))
    expected = np.where(x.numpy() > 0, x.numpy(), x.numpy() * slopes.reshape(1, -1, *(1,) * (len(shape) - 2)))
    np.testing.assert_allclose(layer(x)[0].detach().numpy(), expected)
    check_gradients("PReLU", fields, x)


def test_the_slopes_of_prelu_begin_at_a_quarter() -> None:
    layer = make_layer(parse("PReLU"), TEST)
    layer.setup([(2, 3)])
    assert layer.blobs[0].tolist() == [0.25] * 3
    assert_like_opencv("PReLU", "", random(2, 3, 4, 4))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax(axis: int) -> None:
    x = random(2, 3, 4, 2, low=-5, high=5)
    powers = np.exp(x.numpy())
    (y,) = compute("Softmax", f"softmax_param {{ axis: {axis} }}", x)
    np.testing.assert_allclose(y.numpy(), powers / powers.sum(axis, keepdims=True))
    check_gradients("Softmax", f"softmax_param {{ axis: {axis} }}", x)
    assert_like_opencv("Softmax", f"softmax_param {{ axis: {axis % 4} }}", x)


def test_dropout_drops_and_scales_in_train_only() -> None:
    x = torch.ones(100, 100)
    (y,) = compute("Dropout", "dropout_param { dropout_ratio: 0.25 }", x)
    assert set(y.flatten().tolist()) == {0.0, torch.tensor(4 / 3).item()}
    assert abs((y == 0).float().mean().item() - 0.25) < 0.02
    (same,) = compute("Dropout", "dropout_param { dropout_ratio: 0.25 }", x, phase=TEST)
    assert torch.equal(same, x)


def test_the_gradient_of_dropout_is_dropped_too() -> None:
    x = torch.ones(1000, requires_grad=True)
    (y,) = compute("Dropout", "", x)
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], y)


@pytest.mark.parametrize(
    ("kind", "fields", "problem"),
    [
        ("Dropout", "dropout_param { dropout_ratio: 1 }", r"dropout_ratio \(1\)"),
        ("Dropout", "dropout_param { dropout_ratio: -0.5 }", r"dropout_ratio \(-0.5\)"),
        ("Exp", "exp_param { base: 0 }", r"base \(0\)"),
        ("Log", "log_param { base: 1 }", r"base \(1\)"),
        ("Clip", "", "clip_param with min and max is missing"),
        ("PReLU", "", "at least 2 axes"),
        ("Softmax", "softmax_param { axis: 1 }", "axis 1 is out of range"),
    ],
)
def test_mistakes_are_told_with_file_line_and_layer(kind: str, fields: str, problem: str) -> None:
    with pytest.raises(ModelError, match=rf'^net\.prototxt:1: layer "tested": .*{problem}'):
        make(kind, fields, (4,))
